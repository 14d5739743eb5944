"""Genes that a user names."""

import numpy as np
import pytest

from scgp.cells.named import named_genes
from scgp.errors import GeneError


def test_symbols_aliases_and_ids_in_the_order_given(model):
    names = ["LYZ", "ENSG00000019582", "CD20"]  # CD74 by its id, MS4A1 by an alias
    found = named_genes(names, model.genes)
    assert model.genes.symbol[found].tolist() == ["LYZ", "CD74", "MS4A1"]
    assert found.dtype == np.int64
    assert named_genes("LYZ", model.genes).tolist() == found[:1].tolist()
    assert named_genes(np.array(names), model.genes).tolist() == found.tolist()


def test_the_nearest_symbols_of_an_unknown_name_are_told(model):
    with pytest.raises(GeneError, match=r"1 of 2 genes .*'lyzz' \(near: .*LYZ") as caught:
        named_genes(["CD74", "lyzz"], model.genes)
    assert "CD74" not in str(caught.value)
    with pytest.raises(GeneError, match=r"'@@@@' \(no name is near\)"):
        named_genes("@@@@", model.genes)


@pytest.mark.parametrize("name", ["H2-Aa", "H2-K1", "H2-DMb1", "H2-T23"])
def test_a_gene_of_the_mouse_mhc_is_said_to_be_one(model, name):
    with pytest.raises(GeneError, match=rf"'{name}' \(a mouse gene; .*human MHC.*HLA-") as caught:
        named_genes(name, model.genes)
    assert "near" not in str(caught.value)  # HAAO and H2AX look like it, and are no kin


def test_symbols_in_the_case_of_mice_are_said_to_be_so(model):
    with pytest.raises(GeneError, match=r"'Vwf' \(written like a mouse gene; near: VWF"):
        named_genes("Vwf", model.genes)
    with pytest.raises(GeneError) as caught:
        named_genes(["lyzz", "VWFX", "H2AFXX"], model.genes)
    assert "mouse" not in str(caught.value)


def test_human_names_that_look_like_those_of_the_mouse_mhc_are_known(model):
    found = named_genes(["H2AX", "H2-KE2"], model.genes)  # the latter an alias of PFDN6
    assert model.genes.symbol[found].tolist() == ["H2AX", "PFDN6"]


def test_no_more_than_five_unknown_names_are_told(model):
    with pytest.raises(GeneError, match="7 of 7 genes") as caught:
        named_genes([f"?!{i}" for i in range(7)], model.genes)
    assert str(caught.value).count("no name is near") == 5


def test_no_name(model):
    with pytest.raises(GeneError, match="no gene is named"):
        named_genes([], model.genes)


def test_one_gene_by_two_names(model):
    with pytest.raises(GeneError, match="'MS4A1' and 'CD20' are one gene"):
        named_genes(["MS4A1", "CD20"], model.genes)


def test_a_gene_that_is_not_measured(model):
    columns = np.append(named_genes(["CD74", "LYZ"], model.genes), -1)
    assert len(named_genes(["LYZ", "CD74"], model.genes, columns)) == 2
    with pytest.raises(GeneError, match=r"2 of 3 .*not measured in these data: 'CD20', 'ACTB'$"):
        named_genes(["CD20", "CD74", "ACTB"], model.genes, columns)
