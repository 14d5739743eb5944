"""Make what tests/test_releases.py reads: once for each release, and never again.

    python tests/releases/make.py

A small model and its index, trained on the 700 real blood cells that scanpy ships, the same index
with lists, and the answers that this release gives with them. Later releases read the folder of
every earlier one.
"""  # fmt: skip

from pathlib import Path

import numpy as np
import pandas as pd

import scgp
from scgp import demo
from scgp.annotate import model_index
from scgp.cells.vocabulary import GeneVocabulary
from scgp.model.config import ModelConfig, TrainConfig
from scgp.model.directory import save_npz
from scgp.phenotypes.markers import Markers
from scgp.phenotypes.terms import Phenotypes

HERE = Path(__file__).parent
N_ASKED = 60
COVERAGE = 0.5
IN_CONTEXT = ["CD74", "LYZ"]
N_NEAR = 5
LACKED = "CL:0000236"  # B cell


def main() -> None:
    """Train, save, annotate, write down."""
    folder = HERE / scgp.__version__
    cells = demo.counts()
    cells.obs["cell_type"] = cells.obs["bulk_labels"].astype(str).map(demo.BULK_LABEL_TO_CL)
    cells.obs["study"] = np.where(np.arange(cells.n_obs) % 2, "odd cells", "even cells")
    default = scgp.Model.default()
    known = np.unique(default.genes.match(cells.var_names).token_of_column)
    table = pd.read_csv(scgp.model.checkpoint.DEFAULT_DIRECTORY / "genes.tsv", sep="\t", dtype=str)
    genes = GeneVocabulary(table.fillna("").iloc[known[known >= 0]].reset_index(drop=True))
    terms = tuple(sorted(set(cells.obs["cell_type"].dropna())))
    texts = Phenotypes(terms, default.phenotypes.vectors(terms).astype(np.float16), "all-MiniLM")
    config = ModelConfig(
        n_genes=genes.n_genes, n_tokens=16, width=16, context_layers=1, pool_width=16, embed_dim=16
    )
    markers = Markers.from_columns({terms[0]: [0, 1, 2], terms[1]: [2, 3, 4, 5]})
    model = scgp.train(
        cells, out=folder / "model", label_key="cell_type", study_key="study", donor_key=None,
        genes=genes, phenotypes=texts, markers=markers, config=config,
        settings=TrainConfig(pool_steps=60, steps=20),
        card="A small model for the tests; no use for anything else.\n", progress=False,
    )  # fmt: skip
    (folder / "model.history.csv").unlink()
    asked = cells[:N_ASKED].copy()
    scgp.annotate(asked, model=model, coverage=COVERAGE, progress=False)
    answers = {
        "label": asked.obs["scgp_cell_type"].to_numpy(dtype=str),
        "status": asked.obs["scgp_status"].to_numpy(dtype=str),
        "confidence": asked.obs["scgp_confidence"].to_numpy(),
        "novelty": asked.obs["scgp_novelty"].to_numpy(),
        "vectors": asked.obsm["X_scgp"],
        "set": asked.obs["scgp_set"].to_numpy(dtype=str),
        "context": scgp.embed_genes(asked, IN_CONTEXT, model=model, progress=False).X,
        "expression": scgp.predict_expression("B cell", genes=IN_CONTEXT, model=model).X,
    }
    lists = model_index(model).compact(search="lists")
    lists.save(folder / "lists")
    answers["near"], answers["near_rows"] = lists.search(answers["vectors"], N_NEAR)
    # a reference of one's own that lacks a type, which has a background as of 0.11.0
    atlas = cells[N_ASKED:]
    atlas = atlas[(atlas.obs["cell_type"] != LACKED).to_numpy()].copy()
    own = scgp.build_index(atlas, label_key="cell_type", model=model, progress=False)
    own.save(folder / "atlas")
    scgp.annotate(asked, index=own, model=model, key_added="own", progress=False)
    answers["own_label"] = asked.obs["own_cell_type"].to_numpy(dtype=str)
    answers["own_confidence"] = asked.obs["own_confidence"].to_numpy()
    save_npz(folder / "answers.npz", answers)


if __name__ == "__main__":
    main()
