"""Train the default checkpoint, from the data folder to ``scgp/checkpoints/default``.

python benchmarks/pretrain.py --data ../shared/data --out scgp/checkpoints/default --overwrite
"""

import argparse
import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import torch

import scgp
from benchmarks.zeroshot_baselines import marker_sets
from scgp.cells.corpus import read_corpus
from scgp.cells.counts import choose_counts
from scgp.cells.draw import read_drawn, read_profiles
from scgp.cells.genes import training_genes
from scgp.cells.nomenclature import protein_coding_genes
from scgp.cells.vocabulary import GeneVocabulary
from scgp.model.config import ModelConfig, TrainConfig
from scgp.phenotypes.markers import Markers
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.terms import HEALTHY, Phenotypes
from scgp.phenotypes.text import TextEncoder
from scgp.reference.profiles import Profiles
from scgp.training.mean_profiles import profiles_of
from scgp.training.objective import TermTable

TISSUE, DISEASE = "tissue_ontology_term_id", "disease_ontology_term_id"


def files(folder: Path) -> list[Path]:
    """Return the h5ad files of a folder, by name."""
    return sorted(folder.glob("*.h5ad"))


def default_genes(data: Path) -> GeneVocabulary:
    """Return the genes of the training files: in two files or more, or coding for a protein."""
    tables = data / "resources" / "genes"
    hgnc, tenx = tables / "hgnc_2024_slim.tsv.gz", tables / "10x_reference_symbol_to_ensembl.tsv.gz"
    everything = GeneVocabulary.from_tables(hgnc, tenx)
    cells = [choose_counts(ad.read_h5ad(path)) for path in files(data / "train")]
    profiles = [everything.match(p.var_names, p.var) for p in read_profiles(data / "pseudobulk")]
    keep = training_genes(cells, everything, always=protein_coding_genes(hgnc), measured=profiles)
    return GeneVocabulary.from_tables(hgnc, tenx, keep=keep)


def default_phenotypes(data: Path) -> Phenotypes:
    """Encode every term of the Cell Ontology, and the tissues and diseases of the corpus."""
    context: set[str] = {HEALTHY}
    for path in files(data / "train"):
        obs = ad.read_h5ad(path, backed="r").obs
        context |= {str(x) for key in (TISSUE, DISEASE) for x in obs[key].unique()}
    for profile in read_profiles(data / "pseudobulk"):
        context |= set(map(str, profile.obs[TISSUE].unique()))
    encoder = TextEncoder.minilm()
    return Phenotypes.encode([*Ontology("CL").ids, *sorted(context)], encoder, name=encoder.name)


def default_markers(data: Path, genes: GeneVocabulary) -> Markers:
    """Return the marker genes that PanglaoDB and CellMarker know of terms."""
    known = marker_sets(data / "resources" / "genesets", Ontology("CL"))
    found = {term: genes.match(names).token_of_column for term, names in known.items()}
    columns = {term: column_V[column_V >= 0] for term, column_V in found.items()}
    return Markers.from_columns({term: map(int, c) for term, c in columns.items() if len(c)})


def default_profiles(data: Path, model: scgp.Model) -> Profiles | None:
    """Return what the labels of the training files and of the published profiles express."""
    corpus = read_corpus(
        files(data / "train"), model.genes, label_key="cell_type_ontology_term_id",
        study_key="study", donor_key="donor", tissue_key=TISSUE,
    )  # fmt: skip
    types = TermTable.make("CL", list(corpus.label_N), model.phenotypes)
    return profiles_of(model, corpus, types, read_profiles(data / "pseudobulk"))


def renew(path: Path, card: str, data: Path) -> None:
    """Write the model at `path` anew with its card, markers and mean profiles; the rest stays."""
    model = scgp.Model.load(path)
    model.markers = default_markers(data, model.genes)
    index = scgp.ReferenceIndex.load(path / "index", model_fingerprint=model.fingerprint)
    index = dataclasses.replace(index, profiles=default_profiles(data, model))
    model.card = card
    model.save(path, overwrite=True, beside={"index": index.save})


def keep_index(path: Path, base: Path) -> None:
    """Give the model at `path` calibration and index of its base, whose vectors are the same."""
    model, before = scgp.Model.load(path), scgp.Model.load(base)
    pooled = [name for name in before.network.state_dict() if not name.startswith("context.")]
    state, older = model.network.state_dict(), before.network.state_dict()
    odd = [name for name in pooled if not torch.equal(state[name], older[name])]
    if odd:
        msg = f"{path} and {base} differ in {odd}: their vectors are not the same"
        raise RuntimeError(msg)
    index = scgp.ReferenceIndex.load(base / "index", model_fingerprint=before.fingerprint)
    index = dataclasses.replace(index, model_fingerprint=model.fingerprint)
    model.details["calibration"] = before.details["calibration"]
    model.save(path, overwrite=True, beside={"index": index.save})


def refit(path: Path, card: str, data: Path, seed: int) -> None:
    """Fit calibration and index of the model at `path` anew; its network stays as it is."""
    from scgp.device import resolve_device
    from scgp.train import _fold_fitter
    from scgp.training.calibrate import calibrate, reference_of
    from scgp.training.objective import term_tables
    from scgp.training.start import set_statistics, start_model

    model = scgp.Model.load(path)
    model.markers = default_markers(data, model.genes)
    corpus = read_corpus(
        files(data / "train"), model.genes, label_key="cell_type_ontology_term_id",
        study_key="study", donor_key="donor", tissue_key=TISSUE, disease_key=DISEASE,
        unlabelled=files(data / "unlabelled"),
        drawn=read_drawn(data / "pseudobulk", seed=seed),
    )  # fmt: skip
    types = term_tables(corpus, model.phenotypes)["type"]
    start = start_model(None, model.genes, model.phenotypes, model.config, seed)
    start.markers = model.markers
    set_statistics(start.network, corpus, types)
    fit = _fold_fitter(start, TrainConfig(seed=seed), resolve_device(None), progress=True)
    fusion = calibrate(corpus, types, fit=fit, seed=seed)
    model.details["calibration"] = fusion.to_dict()
    model.card = card
    index = reference_of(
        model, corpus, types, seed=seed, fusion=fusion, profiles=default_profiles(data, model)
    )
    model.save(path, overwrite=True, beside={"index": index.save})


def afresh(data: Path, settings: TrainConfig) -> dict[str, Any]:
    """Return the arguments of a training of everything."""
    genes = default_genes(data)
    return {
        "genes": genes,
        "phenotypes": default_phenotypes(data),
        "markers": default_markers(data, genes),
        "settings": settings,
    }


def on_top_of(base: Path, settings: TrainConfig) -> dict[str, Any]:
    """Return the arguments of a training that keeps the pooled view and calibration of a model."""
    model = scgp.Model.load(base)
    shape = ModelConfig(n_genes=model.config.n_genes, text_dim=model.config.text_dim)
    return {
        "base": model,
        "config": replace(
            shape, embed_dim=model.config.embed_dim, pool_width=model.config.pool_width
        ),
        "settings": replace(settings, pool_steps=0),
        "calibrate_on_studies": False,
    }


def main() -> None:
    """Read the data, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool-steps", type=int, default=TrainConfig().pool_steps)
    parser.add_argument("--steps", type=int, default=TrainConfig().steps)
    parser.add_argument(
        "--base", type=Path, help="keep this model's pooled view, calibration and index"
    )
    parser.add_argument("--device", default=None)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument(
        "--refit", action="store_true", help="only calibration and index of --out, as of --renew"
    )
    parser.add_argument(
        "--renew", action="store_true", help="only card, markers and mean profiles of --out"
    )
    options = parser.parse_args()
    card = (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")
    if options.renew:
        renew(options.out, card, options.data)
        return
    if options.refit:
        refit(options.out, card, options.data, options.seed)
        return
    settings = TrainConfig(pool_steps=options.pool_steps, steps=options.steps, seed=options.seed)
    model = scgp.train(
        files(options.data / "train"),
        out=options.out,
        tissue_key=TISSUE,
        disease_key=DISEASE,
        unlabelled=files(options.data / "unlabelled"),
        drawn=read_drawn(options.data / "pseudobulk", seed=options.seed),
        device=options.device,
        overwrite=options.overwrite,
        card=card,
        **(on_top_of(options.base, settings) if options.base else afresh(options.data, settings)),
    )
    if options.base:
        keep_index(options.out, options.base)
    renew(options.out, card, options.data)  # train knows no published profiles
    print(model)


if __name__ == "__main__":
    main()
