"""train(): pretraining and fine-tuning, from files of cells to a saved model with its index.

Shape suffixes: N cells, G genes.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

from scgp.cells.corpus import Corpus, read_corpus
from scgp.cells.dataset import Source
from scgp.cells.excerpt import excerpt
from scgp.cells.stored import StoredCounts
from scgp.cells.vocabulary import GeneVocabulary
from scgp.describe import uses_descriptions
from scgp.device import resolve_device
from scgp.errors import ArgumentError, LabelError
from scgp.model.checkpoint import KIND, MANIFEST, Model
from scgp.model.config import ModelConfig, TrainConfig
from scgp.model.directory import check_target
from scgp.model.network import CellTransformer
from scgp.phenotypes.markers import Markers
from scgp.phenotypes.terms import Phenotypes
from scgp.reference.fusion import Fusion
from scgp.reference.growing import without_promises
from scgp.training.calibrate import calibrate, reference_of
from scgp.training.loop import fit_network
from scgp.training.mean_profiles import profiles_of
from scgp.training.objective import TermTable, term_tables
from scgp.training.seen import described, seen_studies, warn_of_seen
from scgp.training.start import adds_view, set_components, set_means, set_statistics, start_model
from scgp.training.together import Processes


def train(
    data: Source | Sequence[Source],
    *,
    out: str | Path,
    label_key: str = "cell_type_ontology_term_id",
    study_key: str | None = "study",
    donor_key: str | None = "donor",
    tissue_key: str | None = None,
    disease_key: str | None = None,
    unlabelled: Source | Sequence[Source] = (),
    drawn: Sequence[ad.AnnData] = (),
    base: Model | str | Path | None = None,
    genes: GeneVocabulary | None = None,
    phenotypes: Phenotypes | None = None,
    markers: Markers | None = None,
    config: ModelConfig | None = None,
    settings: TrainConfig | None = None,
    calibrate_on_studies: bool = True,
    layer: str | None = None,
    use_raw: bool | None = None,
    stream: bool | None = None,
    device: str | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    resume: bool = True,
    overwrite: bool = False,
    card: str = "",
    progress: bool = True,
) -> Model:
    """Train a model on labelled cells, and save it with its reference index.

    Parameters
    ----------
    data
        Labelled cells with raw counts: AnnData, h5ad paths, SOMA experiments
        (:class:`scgp.cells.soma.SomaSource`, or ``"soma://"`` and their address), or a list of
        them.
    out
        Directory of the model that is written. Beside it ``<out>.training`` holds the state of an
        unfinished run; when the model is complete it is removed, and ``<out>.history.csv`` has the
        history of losses.
    label_key, study_key, donor_key, tissue_key, disease_key
        Columns of ``obs``; None where there is none. Labels are Cell Ontology ids or names (others
        are kept as classes of their own; "unknown", "nan" and the like are no label, as in
        :func:`scgp.build_index`); tissue and disease are UBERON and MONDO ids or names.
    unlabelled
        More cells, for the masked-expression objective only.
    drawn
        Cells drawn from mean profiles (:func:`scgp.cells.draw.draw_cells`), with `label_key` and
        ``profile`` in ``obs``: a share of each batch, and marked in the index.
    base
        Start from this model (fine-tuning): its network, genes and texts. None trains afresh. With
        a `config` that differs in the transformer alone, its pooled view, and a new transformer;
        with one that only gives its reader of genes a linear view (``context_components``), all of
        it, and with ``pool_steps=0`` what embeds cells and genes stays as it is.
    genes, phenotypes
        Vocabulary and text vectors of a model trained afresh; None takes those of the default
        checkpoint.
    markers
        Genes known to mark terms, as columns of `genes`; they train nothing, and describe labels.
        None takes those of `base`, or of the default checkpoint where the genes are its own.
    config, settings
        Shape of a network trained afresh, and settings of the run.
    calibrate_on_studies
        Fit fusion weights, thresholds and temperatures on studies held out in turn (with one study,
        on donors), which trains the pooled view once for each of three folds, all its steps. False
        keeps those of `base`, or the defaults; what was measured on the very cells of its reference
        (label sets, the bound of text novelty) does not go with them. Studies that `base` was
        trained on are not new to its network when they are held out: a warning names them, for
        confidence, sets and bounds of novelty then promise too much.
    layer, use_raw
        Where the counts are, if not in ``X``; of AnnData alone.
    stream
        Leave counts where they are stored, and read them in rounds of steps, the next one while
        this one is trained on: memory does not grow with the counts. The weights are the same. None
        does so where a source is a SOMA experiment.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    devices, num_nodes
        Devices (for the CPU: processes) of each machine that train together, and machines. A step
        has the same cells and the same loss whatever their number: the batch is shared out. Only
        the network is trained by all of them; the rest is done by the first.
    strategy
        Where the processes come from. ``"ddp"``: from outside (torchrun, SLURM, LSF, MPI); each
        runs the whole script, the first writes the model, and all return it. ``"ddp_spawn"``: this
        call starts them, for as long as the network trains; the script must call it under
        ``if __name__ == "__main__":``. ``"auto"``: from outside if they are, else the latter.
    resume
        Go on with the unfinished run in ``<out>.training``, if it is one of the same settings and
        data; False starts afresh.
    overwrite
        Replace a model that stands at `out`; nothing else is ever replaced.
    card
        Model card, kept in the directory.
    progress
        Show a progress bar.

    Returns
    -------
    The trained model, as saved.

    Notes
    -----
    The network is trained on all cells. What is read off the corpus once (means of genes,
    calibration, mean profiles, the index) is read off an excerpt where there are more than 300,000
    cells, in memory or not: at most so many, drawn with the seed from 1,000 tiles of 2,048 cells at
    most, with 150 of each class where the tiles have them (:mod:`scgp.cells.excerpt`).

    Raises
    ------
    ArgumentError
        `out` exists (with `overwrite`: and is no saved model), arguments contradict each other, or
        `devices` and `num_nodes` are not the processes that were started.
    DeviceError
        A device is not there, or fewer than `devices`.
    LabelError
        No cell has a label, or none with a label has a count.
    CheckpointError
        The unfinished run beside `out` is of other settings or data.
    ScgpError
        Another process of the run failed.
    KeyboardInterrupt
        The run was interrupted; its state is kept, and the same call goes on with it.
    """
    out = check_target(out, kind=KIND, manifest_name=MANIFEST, overwrite=overwrite)
    settings = settings or TrainConfig()
    on = resolve_device(device)
    processes = Processes.plan(devices, num_nodes, strategy, on)
    if base is not None and not isinstance(base, Model):
        base = Model.load(base)
    model = start_model(base, genes, phenotypes, config, settings.seed)
    view_added = base is not None and adds_view(base.config, model.config)
    processes.check_batches(settings, model.config)
    model.markers = _checked(markers, model)
    if base is None and settings.pool_steps == 0 and model.config.trained_on_top:
        msg = (
            "pool_steps is 0, but the vectors of cells are the pooled view's: nothing would train "
            "it. Pass pool_steps > 0, or ModelConfig(token_slots=True)"
        )
        raise ArgumentError(msg)
    corpus = read_corpus(
        data, model.genes, label_key=label_key, study_key=study_key, donor_key=donor_key,
        tissue_key=tissue_key, disease_key=disease_key, unlabelled=unlabelled, drawn=drawn,
        layer=layer, use_raw=use_raw, stream=stream,
    )  # fmt: skip
    if processes.size > 1 and not processes.outside and corpus.streamed:
        corpus.close()
        msg = (
            "counts that stay stored cannot be given to processes that this call starts; start "
            'them outside (torchrun, SLURM) with strategy="ddp", or pass stream=False'
        )
        raise ArgumentError(msg)
    tables = term_tables(corpus, model.phenotypes)
    _check_labelled(corpus, tables["type"], label_key)
    seen, seen_types = _excerpt(corpus, tables["type"], settings.seed)
    work = out.with_name(out.name + ".training")
    if base is None:
        set_statistics(model.network, seen, tables["type"])
    if (base is None or config is not None) and not view_added:
        set_means(model.network, seen)
    if base is None or model.config != base.config:  # else the view is trained on
        set_components(model.network, seen, seen_types, settings.seed)
    kept = model.details.get("calibration")
    fusion = without_promises(Fusion.from_dict(kept)) if kept else None
    if calibrate_on_studies and processes.rank == 0:
        if study_key is not None:  # else studies are named after files
            warn_of_seen(model, corpus)
        fusion = calibrate(
            seen, seen_types, seed=settings.seed,
            fit=_fold_fitter(model, settings, on, progress=progress),
        )  # fmt: skip
    fit_network(
        model, corpus, tables, settings, device=on, work=work, resume=resume,
        progress=progress and processes.rank == 0, processes=processes,
        keep_embeddings=view_added and not settings.pool_steps,
    )  # fmt: skip
    if processes.rank:
        corpus.close()
        processes.await_first()
        return Model.load(out)
    with processes.awaited():
        details: dict[str, Any] = {
            "settings": settings.to_dict(),
            "corpus": described(corpus),
            "calibration": fusion.to_dict() if fusion else None,
        }
        if base is not None:
            details["base"] = model.details["base"]
            details["base_studies"] = seen_studies(model)
        trained = Model(
            model.config, model.network, model.genes, model.phenotypes,
            markers=model.markers, card=card, details=details,
        )  # fmt: skip
        index = reference_of(
            trained, seen, seen_types, seed=settings.seed, fusion=fusion,
            described=calibrate_on_studies or uses_descriptions(kept),
            profiles=profiles_of(trained, seen, seen_types),
        )  # fmt: skip
        corpus.close()
        trained.save(out, beside={"index": index.save}, overwrite=overwrite)
        if work.is_dir():
            _keep_history(work, out)
    return Model.load(out)


def _check_labelled(corpus: Corpus, types: TermTable, label_key: str) -> None:
    """Refuse cells of which none has a label, or none of these a count."""
    labelled_N = (types.cell_N >= 0) & ~corpus.drawn_N
    if not labelled_N.any():
        msg = f"no cell has a label in {label_key!r}; training needs labelled cells (label_key=)"
        raise LabelError(msg)
    counts = corpus.count_NG
    if not isinstance(counts, StoredCounts) and not np.diff(counts.indptr)[labelled_N].any():
        msg = f"no cell has both a label in {label_key!r} and a count in a gene of the model"
        raise LabelError(msg)


def _excerpt(corpus: Corpus, types: TermTable, seed: int) -> tuple[Corpus, TermTable]:
    """Return the cells that what is read off the corpus once is read off."""
    rows = excerpt(corpus, types.cell_N, seed=seed)
    return (corpus, types) if rows is None else (corpus.part(rows), types.part(rows))


def _checked(markers: Markers | None, model: Model) -> Markers:
    """Return the marker genes to keep; those of the start where none are given."""
    if markers is None:
        return model.markers
    if not isinstance(markers, Markers):
        msg = f"markers is a {type(markers).__name__}; expected scgp.phenotypes.markers.Markers"
        raise ArgumentError(msg)
    if len(markers.gene_M) and markers.gene_M.max() >= model.config.n_genes:
        msg = (
            f"markers name column {markers.gene_M.max()} of {model.config.n_genes} genes; they "
            "must be columns of the vocabulary that is trained on"
        )
        raise ArgumentError(msg)
    return markers


def _fold_fitter(
    model: Model, settings: TrainConfig, device: torch.device, *, progress: bool
) -> Callable[[Corpus, TermTable], Model]:
    """Return a function that trains on part of the corpus: the pooled view, if it is trained."""
    start = {k: v.clone() for k, v in model.network.state_dict().items()}
    fold_settings = dataclasses.replace(settings, patience=0)  # no cells to hold out once more
    if settings.pool_steps:
        fold_settings = dataclasses.replace(fold_settings, steps=0)

    def fit(corpus: Corpus, types: TermTable) -> Model:
        network = CellTransformer(model.config)
        network.load_state_dict(start)
        fold = Model(model.config, network, model.genes, model.phenotypes)
        tables = {**term_tables(corpus, model.phenotypes), "type": types}
        fit_network(
            fold, corpus, tables, fold_settings, device=device, work=None, resume=False,
            progress=progress,
        )  # fmt: skip
        return Model(model.config, network, model.genes, model.phenotypes, markers=model.markers)

    return fit


def _keep_history(work: Path, out: Path) -> None:
    """Move the history of losses beside the model and remove the state."""
    files = {int(file.parent.name): file for file in work.glob("history/*/metrics.csv")}
    if files:  # one of each time the run was gone on with, from the step in its name
        parts = [pd.read_csv(files[first]) for first in sorted(files)]
        for first, part in zip(sorted(files), parts, strict=True):
            part["step"] += first
        history = pd.concat(parts)
        if "context" in history:
            # beside it, Lightning repeats the last losses of the pooled view
            others = history.columns.difference(["epoch", "step", "loss", "context"])
            history.loc[history["context"].notna(), others] = np.nan
        history.to_csv(out.with_name(out.name + ".history.csv"), index=False)
    shutil.rmtree(work)
