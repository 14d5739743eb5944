"""The demonstration: counts recovered from what scanpy ships, its tables, and a whole run."""

import json
import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgp
from scgp import demo
from scgp.__main__ import main
from scgp.errors import CountsError


def _files(folder):
    return sorted(path.name for path in folder.iterdir())


def _shipped():
    import scanpy as sc

    return sc.datasets.pbmc68k_reduced()


def test_counts_are_recovered_from_what_scanpy_ships():
    shipped = _shipped()
    adata, residual = demo.recover_counts(shipped)
    assert adata.shape == (700, 765)
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.data.min() == 1
    assert residual.max() < 0.1
    again = np.log1p(adata.X.toarray() / adata.obs["n_counts"].to_numpy()[:, None] * 1e4)
    assert np.abs(again - shipped.raw.X.toarray()).max() < 0.03


def test_values_that_are_no_recovered_counts_are_refused():
    shipped = _shipped()
    shipped.obs["n_counts"] = shipped.obs["n_counts"] * 1.3
    with pytest.raises(CountsError, match="from a whole number"):
        demo.recover_counts(shipped)


def test_every_own_label_has_a_live_term():
    from scgp.phenotypes.ontology import Ontology

    ontology = Ontology("CL")
    assert set(demo.BULK_LABEL_TO_CL) == set(_shipped().obs["bulk_labels"])
    assert all(ontology.is_term(term) for term in demo.BULK_LABEL_TO_CL.values())


def _answers(rows):
    adata = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(rows))]))
    adata.obs["bulk_labels"] = pd.Categorical([row[0] for row in rows])
    adata.obs["scgp_cell_type_ontology_term_id"] = pd.Categorical([row[1] for row in rows])
    return adata


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ("CL:0000236", "agrees"),  # B cell
        ("CL:0000788", "agrees"),  # naive B cell
        ("CL:0000542", "less specific"),  # lymphocyte
        ("CL:0000084", "differs"),  # T cell
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_agreement_follows_the_ontology(given, verdict):
    from scgp.phenotypes.ontology import Ontology

    table = demo.agreement(_answers([("CD19+ B", given)]), Ontology("CL"))
    assert table.loc["CD19+ B"].to_dict() == {
        name: int(name == verdict) for name in demo.VERDICTS}  # fmt: skip


def test_summary_counts_and_averages():
    adata = _answers([("CD19+ B", "CL:0000236"), ("CD19+ B", "CL:0000236"), ("Dendritic", None)])
    adata.obs["scgp_cell_type"] = pd.Categorical(["B cell", "B cell", "unknown"])
    adata.obs["scgp_confidence"] = np.array([0.5, 1.0, 0.25], dtype=np.float32)
    adata.obs["scgp_status"] = pd.Categorical(["labelled", "labelled", "unknown"])
    assert demo.summary(adata).to_dict("list") == {
        "label": ["B cell", "unknown"],
        "ontology id": ["CL:0000236", ""],
        "cells": [2, 1],
        "mean confidence": [0.75, 0.25],
        "unknown": [0, 1],
    }


def test_demonstration_runs_whole(tmp_path, capsys):
    """The shipped checkpoint on real cells: what ``make demo`` does."""
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert _files(tmp_path / "demo") == ["pbmc68k_annotated.h5ad", "umap.png"]
    told = capsys.readouterr().out
    assert "no benchmark" in told
    adata = ad.read_h5ad(tmp_path / "demo" / "pbmc68k_annotated.h5ad")
    assert adata.obsm["X_scgp"].dtype == np.float32
    table = demo.agreement(adata, _ontology())
    assert table["agrees"].sum() / 700 > 0.4


@pytest.mark.parametrize("below", [".", "demo"])
def test_a_file_is_no_folder_of_the_demonstration(tmp_path, capsys, monkeypatch, below):
    monkeypatch.setattr(demo, "_shipped", lambda: pytest.fail("refused only after the work"))
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / below)]) == 2
    assert "file is a file; expected the name of a folder" in capsys.readouterr().err


def _ontology():
    from scgp.phenotypes.ontology import Ontology

    return Ontology("CL")


@pytest.mark.parametrize("page", ["README.md", "docs/what-if.md"])
def test_the_gene_perturbed_in_an_example_is_measured_in_these_cells(page):
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
    (written,) = re.findall(r"scgp\.perturb\(\s*adata, (\{.*?\})", text)
    named = json.loads(written)
    cells = demo.counts()
    found = scgp.perturb(cells, named, genes=[], n_null=0, progress=False)
    assert found.perturbed["gene"].tolist() == list(named)
    moved = cells.obs_names[(cells[:, list(named)].X.toarray() > 0).any(axis=1)]
    assert found.cells.index[found.cells["changed"]].tolist() == moved.tolist()
    assert len(moved) > 100
