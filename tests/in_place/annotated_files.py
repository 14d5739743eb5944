"""Reading and comparing annotated files, of either kind."""

import anndata as ad
import numpy as np
import pandas as pd

SLOTS = ("scgp_cell_type", "scgp_cell_type_ontology_term_id", "scgp_confidence", "scgp_status",
         "scgp_novelty")  # fmt: skip


def read(path):
    return ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)


def same(found, expected):
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.obsm["X_scgp"], expected.obsm["X_scgp"])
    assert found.obsm["X_scgp"].dtype == np.float32
    told, wanted = (
        # a file gives a list back as an array
        {key: list(x) if isinstance(x, np.ndarray) else x for key, x in adata.uns["scgp"].items()}
        for adata in (found, expected)
    )
    assert told == wanted


def content(path):
    """Bytes of a file, or of all files of a store by name."""
    if path.is_file():
        return path.read_bytes()
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
