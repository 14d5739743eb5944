"""Pretrain on the CELLxGENE Census: needs the network, or a copy of a release on a disk.

    python benchmarks/pretrain_census.py --out census-model
    python benchmarks/pretrain_census.py --out census-blood --where "tissue_general == 'blood'"

docs/census.md says what it reads, how long that takes and what to cite.
"""  # fmt: skip

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

BUCKET = "s3://cellxgene-census-public-us-west-2/cell-census"
#: The bucket is read without an account.
PUBLIC = {"vfs.s3.region": "us-west-2", "vfs.s3.no_sign_request": "true"}
HUMAN = "census_data/homo_sapiens"
#: Smart-seq, Smart-seq2, Smart-seq v4: whole transcripts, whose counts grow with a gene's length.
LENGTH_BOUND = ("EFO:0008930", "EFO:0008931", "EFO:0700016")
#: Each cell once, and none without a type.
WHERE = (
    "is_primary_data == True and cell_type_ontology_term_id != 'unknown' "
    f"and assay_ontology_term_id not in {list(LENGTH_BOUND)}"
)
#: Columns of obs by their names in the Census; a dataset is a study.
KEYS = {
    "label_key": "cell_type_ontology_term_id",
    "study_key": "dataset_id",
    "donor_key": "donor_id",
    "tissue_key": "tissue_ontology_term_id",
    "disease_key": "disease_ontology_term_id",
}


def source_of(root: str, where: str | None) -> Any:
    """Return the human cells of a release, drawn by tiles."""
    from scgp.cells.soma import SomaSource

    query = WHERE if where is None else f"{WHERE} and {where}"
    return SomaSource(
        f"{root.rstrip('/')}/{HUMAN}",
        obs_query=query,
        by_tiles=True,
        config=PUBLIC if root.startswith("s3://") else {},
    )


def main() -> None:
    """Train, and write the model with its index."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--release", default="2025-11-08", help="tag of a release of the Census")
    parser.add_argument("--copy", help="folder of a copy of the release's soma/, for the bucket")
    parser.add_argument("--where", help="take only cells for which this holds, too")
    parser.add_argument("--base", type=Path, help="fine-tune this model instead")
    parser.add_argument("--pool-steps", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None)
    options = parser.parse_args()

    import scgp
    from scgp.model.config import TrainConfig

    settings = TrainConfig(
        pool_steps=options.pool_steps, steps=options.steps, batch_size=options.batch_size,
        seed=options.seed,
    )  # fmt: skip
    root = options.copy or f"{BUCKET}/{options.release}/soma"
    model = scgp.train(
        source_of(root, options.where), out=options.out, **KEYS, base=options.base,
        settings=settings, device=options.device,
        card=f"Trained on the CELLxGENE Census, release {options.release}, where {options.where}.",
    )  # fmt: skip
    print(model)


if __name__ == "__main__":
    main()
