"""Promise 3: what earlier releases wrote is read, with the outputs it had then."""

from pathlib import Path

import numpy as np
import pytest
import torch

import scgp
from scgp.model.directory import load_npz

#: Of confidences. On a processor without AVX-512, which wrote them, sums of float32 round otherwise
#: (vectors by 1.5e-7), and softmaxes divide that by temperatures of .05 to .4.
BOUND = 1e-5 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 5e-5
RELEASES = sorted(path for path in (Path(__file__).parent / "releases").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", RELEASES, ids=lambda path: path.name)
def test_a_release_is_read_with_the_same_outputs(folder, all_blood):
    expected = load_npz(folder / "answers.npz")
    cells = all_blood[: len(expected["label"])].copy()
    # earlier releases had no label sets
    coverage = 0.5 if "set" in expected else None
    scgp.annotate(cells, model=folder / "model", coverage=coverage, progress=False)
    np.testing.assert_allclose(cells.obsm["X_scgp"], expected["vectors"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        cells.obs["scgp_confidence"], expected["confidence"], rtol=0, atol=BOUND
    )
    assert cells.obs["scgp_cell_type"].tolist() == expected["label"].tolist()
    assert cells.obs["scgp_status"].tolist() == expected["status"].tolist()
    if "novelty" in expected:  # as of 0.6.0
        np.testing.assert_allclose(
            cells.obs["scgp_novelty"], expected["novelty"], rtol=0, atol=1e-5
        )
    if "context" in expected:  # as of 0.8.0
        genes = ["CD74", "LYZ"]
        context = scgp.embed_genes(cells, genes, model=folder / "model", progress=False)
        np.testing.assert_allclose(context.X, expected["context"], rtol=0, atol=1e-5)
        said = scgp.predict_expression("B cell", genes=genes, model=folder / "model")
        np.testing.assert_allclose(said.X, expected["expression"], rtol=0, atol=1e-5)
    if "near" in expected:  # as of 0.9.0: an index with lists
        for memory_map in (False, True):
            index = scgp.ReferenceIndex.load(folder / "lists", memory_map=memory_map)
            near, rows = index.search(expected["vectors"], expected["near"].shape[1])
            np.testing.assert_allclose(near, expected["near"], rtol=0, atol=1e-5)
            assert (rows == expected["near_rows"]).mean() > 0.99  # ties within rounding
    if "own_label" in expected:  # as of 0.11.0: a reference with a background
        options = {"index": folder / "atlas", "model": folder / "model", "key_added": "own"}
        scgp.annotate(cells, **options, progress=False)
        assert cells.obs["own_cell_type"].tolist() == expected["own_label"].tolist()
        np.testing.assert_allclose(
            cells.obs["own_confidence"], expected["own_confidence"], rtol=0, atol=BOUND
        )
    if coverage:
        assert cells.obs["scgp_set"].tolist() == expected["set"].tolist()


def test_this_release_has_its_folder():
    assert scgp.__version__ in [path.name for path in RELEASES]
