"""Sets of genes: files, mappings, and which stand out."""

import gzip

import numpy as np
import pytest
from scipy import stats

from scgp.errors import GeneError
from scgp.in_context.gene_sets import FEWEST, MOST_GENES, enriched, read_gene_sets

LINES = "MHC\tabout\tCD74\tHLA-DRA\tHLA-DRA\tno_such_gene\nGO:0001\tlysis\tLYZ\t\t\n"


def genes_of(model, *names):
    return sorted(model.genes.match(list(names)).token_of_column.tolist())


@pytest.fixture
def expected(model):
    return {"MHC": genes_of(model, "CD74", "HLA-DRA"), "lysis (GO:0001)": genes_of(model, "LYZ")}


def listed(sets):
    return {name: genes.tolist() for name, genes in sets.items()}


@pytest.mark.parametrize("name", ["sets.gmt", "sets.gmt.gz"])
def test_a_gmt_file_plain_or_packed(model, tmp_path, expected, name):
    data = LINES.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert listed(read_gene_sets(tmp_path / name, model.genes)) == expected
    assert listed(read_gene_sets(str(tmp_path / name), model.genes)) == expected


def test_a_mapping_and_genes_that_are_not_known(model):
    given = {"a": ["CD20", "MS4A1", "no_such_gene"], "b": ("ENSG00000019582",), "c": []}
    sets = read_gene_sets(given, model.genes)
    assert listed(sets) == {"a": genes_of(model, "MS4A1"), "b": genes_of(model, "CD74"), "c": []}
    assert all(genes.dtype == np.int64 for genes in sets.values())


def test_what_cannot_be_read(model, tmp_path):
    with pytest.raises(GeneError, match=r"no file .*nowhere\.gmt"):
        read_gene_sets(tmp_path / "nowhere.gmt", model.genes)
    (tmp_path / "short.gmt").write_text("good\tabout\tLYZ\nname\tabout\n", encoding="utf-8")
    with pytest.raises(GeneError, match=r"line 2 of short\.gmt has 2 fields; expected 3 or more"):
        read_gene_sets(tmp_path / "short.gmt", model.genes)
    with pytest.raises(GeneError, match="none of 2 gene sets has a gene of the model"):
        read_gene_sets({"a": ["nothing"], "b": []}, model.genes)


def test_enrichment_is_scipys_test_by_hand():
    """100 genes, 10 chosen; sets of 12, 20 and 6 genes with 6, 5 and 0 of the chosen."""
    background, chosen = np.arange(100, 200), np.arange(100, 110)
    sets = {
        "twelve": np.arange(104, 116),
        "twenty": np.arange(105, 125),
        "six": np.arange(150, 156),
    }
    p = []
    for size, hits in ((12, 6), (20, 5), (6, 0)):
        table = [[hits, 10 - hits], [size - hits, 100 - 10 - size + hits]]
        p.append(stats.fisher_exact(table, alternative="greater").pvalue)
    q = stats.false_discovery_control(p)
    assert q[1] < 0.1 < q[2]
    told, best = enriched(chosen, background, sets, n=3)
    assert told == ["twelve", "twenty"]
    assert best == pytest.approx(q[0])
    assert enriched(chosen, background, sets, n=1) == (["twelve"], pytest.approx(q[0]))


def test_only_what_is_in_the_background_counts():
    background, chosen = np.arange(100), np.arange(10)
    inside = np.arange(4, 16)
    outside = np.concatenate([inside, np.arange(1000, 1400)])
    first = enriched(chosen, background, {"set": inside}, n=3)
    assert enriched(chosen, background, {"set": outside}, n=3) == first
    assert first[0] == ["set"]


def test_sets_too_small_or_too_large_are_not_scored():
    background, chosen = np.arange(2000), np.arange(50)
    small, least = np.arange(FEWEST - 1), np.arange(FEWEST)
    most, large = np.arange(MOST_GENES), np.arange(MOST_GENES + 1)
    assert enriched(chosen, background, {"small": small, "large": large}, n=3)[0] == []
    assert enriched(chosen, background, {"least": least, "most": most}, n=3)[0] == ["most", "least"]


def test_where_nothing_stands_out_q_is_nan():
    told, q = enriched(np.arange(10), np.arange(100), {"set": np.arange(50, 60)}, n=3)
    assert told == []
    assert np.isnan(q)
    told, q = enriched(np.arange(10), np.arange(100), {}, n=3)
    assert told == []
    assert np.isnan(q)
