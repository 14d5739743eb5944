"""annotate(): AnnData in, labels out.

Owns the names of the slots. Must not know which reference is meant (`which`), how an index is made
(`build`) or how slots are written (`slots`).

Shape suffixes: B cells, E width of the joint space.
"""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np

from scgp.answer_columns import answer_slots, column_names, left_over, profile_facts
from scgp.asking import (
    asked_labeller,
    asking_for,
    check_confidence,
    check_coverage,
    given_facts,
    labels_wanted,
    mass_of_sets,
)
from scgp.cells.counts import CountMatrix, choose_counts
from scgp.cells.genes import match_genes
from scgp.device import resolve_device
from scgp.embed import CellVectors, facts_of, warn_empty
from scgp.labelling import Labelled, Labeller, joined, label_blocks
from scgp.labels import read_covered
from scgp.model.checkpoint import Model
from scgp.own import model_index
from scgp.phenotypes.text import TextEncoder
from scgp.progress import progress_bar
from scgp.reference.answer import answer
from scgp.reference.candidates import Candidates
from scgp.reference.decision import Decision
from scgp.reference.index import ReferenceIndex
from scgp.representation import (
    calibrated,
    check_dimensions,
    query_vectors,
    read_representation,
    refuse_unused,
)
from scgp.scale.workers import active_client, label_on_workers
from scgp.slots import check_index_name, check_target, write_slots
from scgp.smoothing import read_clusters, smoothed
from scgp.which import represented_index

__all__ = [
    "annotate",
    "label_cells",
    "model_index",
]

#: What becomes of cells without a count.
EMPTY = "their label is missing, their confidence 0 and their vector zero"


def annotate(
    adata: ad.AnnData,
    *,
    reference: ad.AnnData | None = None,
    label_key: str | None = None,
    index: ReferenceIndex | str | Path | None = None,
    labels: str | Sequence[str] | None = None,
    model: Model | str | Path | None = None,
    encoder: TextEncoder | None = None,
    tissue: str | None = None,
    min_confidence: float | None = None,
    min_confidence_broader: float | None = None,
    coverage: float | None = None,
    use_rep: str | None = None,
    smooth: str | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    key_added: str = "scgp",
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Give every cell a Cell Ontology label, a confidence, and "unknown" where it should not guess.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed, or a dask array, which the
        workers of an active ``dask.distributed`` client read, if there is one. Genes by HGNC symbol
        or Ensembl id. With `use_rep` neither counts nor genes are read.
    reference, label_key
        Your own atlas, and the ``obs`` column with its labels; instead of the default reference.
        Words that say there is none ("unknown", "unassigned", "nan") are no label: see
        :func:`scgp.build_index`. Cells that the model reads as types which the atlas lacks get no
        label of it, but a broader term or "unknown".
    index
        What :func:`scgp.build_index` made, or its directory; instead of `reference`.
    labels
        The labels that may be answered; None for all of the reference. Each is an id, a label or
        an exact synonym of the Cell Ontology (which stands for all labels of the reference that lie
        below it), a short name that authors use for one ("CD4+ T cells"; a warning tells how it was
        read), the name of a label of the reference, or free text. With a single one, the answer is
        that or "unknown".
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    encoder
        What reads the free texts among `labels`, as in :func:`scgp.score_text`. None makes
        all-MiniLM-L6-v2 from the extra ``scgp[text]``, and only where a text is free.
    tissue
        The tissue that all these cells are of, as id or name of an UBERON term ("lung"); None: not
        told. Labels that the reference knows from other organs alone, such as "decidual pericyte"
        in a breast, have a twentieth of their odds then. Not with `labels`, nor with a reference of
        your own.
    min_confidence
        The confidence that a label needs, 0 to 1; None is .5. 0 gives every cell its best label,
        novel or not, and never "unknown".
    min_confidence_broader
        The confidence that a broader term needs which is given because no label is sure; None is
        .96: of such terms 97 % held on left-out studies, and fewer in some new files (.85 for an
        index made before 0.12.0, and for a cell that your own reference lacks the type of, where it
        is no calibrated confidence). Lower it where "epithelial cell, .8" is of more use to you
        than "unknown". Never less than `min_confidence`; not heard with `labels`.
    coverage
        Also write a set of labels for each cell that holds the truth for this share of cells, such
        as 0.9, as measured on held-out studies. Not with `labels` or `reference`, nor with an index
        of your own, unless it is of a representation and was made with ``study_key``.
    use_rep
        Key in ``obsm`` of a representation of your own, cells x E, such as ``"X_scVI"``, made for
        these cells and the reference by one model. It needs `reference` and `label_key`, or an
        `index` made with the same key. There are then two streams of evidence, neighbours and the
        linear head; among `labels`, only those that the reference has cells of. `model`, `encoder`,
        `tissue`, `layer`, `use_raw` and `device` cannot go with it, and `batch_size` and `progress`
        change nothing.
    smooth
        Name of a column of ``obs`` with your clusters, such as ``"leiden"``: also write one answer
        for each cluster, from those of its cells, which stay as they are. Rare types are lost in
        clusters that hold more than them; see "One answer for a cluster" in the documentation.
    layer, use_raw
        Where the counts of `adata` are, if not in ``X``.
    key_added
        Prefix of the slots written.
    batch_size
        Cells read at once; bounds memory, does not change the answer.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.
    copy
        Return a changed copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Written are

    ``obs["scgp_cell_type"]`` : categorical
        The label, a broader term where the label is not decided, or "unknown"; missing for cells
        without a count. With `labels`, one of them or "unknown": terms by their ontology label.
    ``obs["scgp_cell_type_ontology_term_id"]`` : categorical
        Its Cell Ontology id; "" where it has none.
    ``obs["scgp_confidence"]`` : float32
        Probability of the label with all terms below it; 0 for "unknown" and empty cells.
    ``obs["scgp_status"]`` : categorical
        "labelled", "ancestor" (never with `labels`), "unknown" or "empty".
    ``obs["scgp_novelty"]`` : float32
        1 minus the cosine to the nearest reference cell: near 0 for a cell like the reference, the
        higher the less it is like any; missing for cells without a count. A rank more than a
        probability: how well it tells types that the reference lacks is in the documentation.
    ``obs["scgp_set"]`` : categorical, with `coverage`
        The labels of the set, in the order of the alphabet, with " | " between them.
    ``obs["scgp_set_size"]`` : int32, with `coverage`
        How many they are; 0 for empty cells.
    ``obs["scgp_smooth_cell_type"]`` : categorical, with `smooth`
        The label of the cell's cluster, a broader term or "unknown"; that of the cell itself where
        it is in no cluster (no value in the column); missing for cells without a count.
    ``obs["scgp_smooth_cell_type_ontology_term_id"]`` : categorical, with `smooth`
        Its Cell Ontology id; "" where it has none, missing for cells without a count.
    ``obs["scgp_smooth_share"]`` : float32, with `smooth`
        The share of the cluster's cells with a count whose own label is that of the cluster, a term
        below it or above it; missing for cells without a count or a cluster.
    ``obsm["X_scgp"]`` : float32, cells x 128
        Unit rows; zero rows for empty cells. Not written with `use_rep`: the vectors are there.
    ``uns["scgp"]`` : dict
        Model, index, counts and genes that were used; ``labels_from_profiles``, those of the labels
        given of which the reference has no real cell, but published mean profiles alone, where
        there are any: trust them less. A broader term, or one of `labels`, stands for all labels at
        or below it. With `labels` also ``labels`` as read, their ``labels_ontology_term_ids`` (""
        for none) and ``labels_in_reference``, whether the reference has cells of each, real ones or
        drawn from profiles: lists, which a file gives back as arrays. With `use_rep` its
        key, the index, and ``calibrated``, whether the confidence was fitted on held-out studies.
        With `smooth` its column, with `tissue` the term and its id.

    Columns of `coverage` and of `smooth` that an earlier call wrote with
    the same `key_added` and this one does not write are removed.

    Raises
    ------
    ArgumentError
        `labels` is empty or holds what cannot be read: a blank text, an id of no live term, free
        text without an encoder; `coverage` is no share, or the index has no calibration for it;
        `coverage` goes with `reference`; no cell has a value in the column `smooth`;
        `use_rep` names nothing in ``obsm``, what is not cells x E of finite numbers, or has another
        width than the reference's;
        `tissue` is no UBERON term, or goes with `labels`, `reference` or `use_rep`;
        or an argument has a value that cannot be used.
    CountsError
        The matrix does not hold raw counts; the message names where counts are.
    GeneError
        No gene is in common with the model.
    MissingColumnError
        The reference has no column `label_key`, or ``obs`` no column `smooth`.
    FingerprintError
        The index was made by another model, or from another representation.
    DeviceError
        The device is not there.

    Warns
    -----
    ScgpWarning
        Few genes in common, duplicated genes (summed), empty cells, labels outside the ontology.
        Of `labels`: those named twice, and those without reference cells, whose description alone
        is compared with the cells; how sure that is was measured on other terms, and not at all for
        free text. Labels of the reference that are no terms, so that none of `labels` covers them.
        With `use_rep`: the confidence of the index is not calibrated. The reference has nothing of
        `tissue`.

    Notes
    -----
    Streams of evidence (nearest reference cells, similarity to the text of ontology terms, a linear
    head on the cell's vector, one on its genes, the genes again by what is known of the labels, the
    likeliest labels compared over the genes that set them apart, and beside a reference of your own
    what all terms of the model say) are fused; how, and how far the answer is to be believed, was
    fitted on held-out studies; see "How annotation works" in the documentation.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> scgp.annotate(adata, progress=False)
    >>> bool(adata.obs["scgp_cell_type"].isin(["unknown"]).mean() < 0.5)
    True
    >>> scgp.annotate(adata, labels=["B cell", "T cell", "NK cell", "monocyte"], progress=False)
    >>> [str(name) for name in adata.obs["scgp_cell_type"].cat.categories]
    ['B cell', 'T cell', 'monocyte', 'natural killer cell', 'unknown']
    """
    check_target(adata, key_added=key_added, copy=copy)
    check_index_name(adata, column_names(key_added))
    cluster_N = read_clusters(adata, smooth)
    told = {} if smooth is None else {"smooth": smooth}
    if use_rep is not None:
        wanted = labels_wanted(labels, encoder, coverage)
        check_confidence(min_confidence, min_confidence_broader)
        check_coverage(coverage, reference)
        refuse_unused(
            model=model, encoder=encoder, tissue=tissue, layer=layer, use_raw=use_raw,
            device=device,
        )  # fmt: skip
        matrix_BE = read_representation(adata, use_rep)
        if isinstance(reference, ad.AnnData):
            check_dimensions(adata, reference, use_rep)
        index = represented_index(reference, label_key, index, use_rep)
        index = asking_for(min_confidence, min_confidence_broader, index)
        given = given_facts(coverage, min_confidence, min_confidence_broader)
        decision, facts = _from_representation(matrix_BE, index, wanted, given)
        consensus = smoothed(decision, cluster_N, facts, index)
        slots = answer_slots(decision, None, facts | told, key_added, consensus)
        old = left_over(slots["obs"], key_added, adata.obs)
        return write_slots(adata, slots, copy=copy, drop={"obs": old})
    labeller, counts, asked = asked_labeller(
        adata, reference=reference, label_key=label_key, index=index, labels=labels, model=model,
        encoder=encoder, tissue=tissue, min_confidence=min_confidence,
        min_confidence_broader=min_confidence_broader, coverage=coverage, layer=layer,
        use_raw=use_raw, batch_size=batch_size, device=device, progress=progress,
    )  # fmt: skip
    match = match_genes(counts, labeller.model.genes)
    client = active_client(counts)
    if client is not None:
        labelled = label_on_workers(
            client, counts, match.token_of_column, labeller, given_model=model,
            given_index=index if reference is None else labeller.index,
            batch_size=batch_size, device=device, progress=progress,
        )  # fmt: skip
    else:
        labelled = _label(
            counts, match.token_of_column, labeller, batch_size=batch_size, device=device,
            progress=progress,
        )  # fmt: skip
    decision, vectors = labelled.decision, labelled.vectors
    warn_empty(vectors, EMPTY)
    facts = facts_of(labeller.model, counts, match) | asked | told
    facts |= profile_facts(decision, labeller.index, named=labeller.candidates is not None)
    consensus = smoothed(decision, cluster_N, facts, labeller.index)
    slots = answer_slots(decision, vectors, facts, key_added, consensus)
    old = left_over(slots["obs"], key_added, adata.obs)
    return write_slots(adata, slots, copy=copy, drop={"obs": old})


def label_cells(
    adata: ad.AnnData,
    model: Model,
    index: ReferenceIndex,
    *,
    candidates: Candidates | None = None,
    set_mass: float | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = False,
) -> tuple[Decision, CellVectors, dict[str, object]]:
    """Embed cells and answer; nothing is written. Also returns the facts for ``uns``.

    The answer is one of all labels of the index, or one of ``candidates``; with ``set_mass`` a set
    of labels beside it. All in this process.
    """
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    match = match_genes(counts, model.genes)
    labeller = Labeller(model, index, candidates, set_mass)
    whole = _label(
        counts, match.token_of_column, labeller, batch_size=batch_size, device=device,
        progress=progress,
    )  # fmt: skip
    return whole.decision, whole.vectors, facts_of(model, counts, match)


def _label(
    counts: CountMatrix,
    token_of_column: np.ndarray,
    labeller: Labeller,
    *,
    batch_size: int,
    device: str | None,
    progress: bool,
) -> Labelled:
    """Label cells in this process."""
    on = resolve_device(device)
    parts: list[Labelled] = []
    with progress_bar(counts.n_cells, what="annotate", unit="cell", shown=progress) as advance:
        blocks = label_blocks(
            labeller, counts.rows, counts.n_cells, token_of_column,
            batch_size=batch_size, device=on,
        )  # fmt: skip
        for _, part in blocks:
            parts.append(part)
            advance(part.n_cells)
    return joined(parts, labeller)


def _from_representation(
    matrix_BE: np.ndarray,
    index: ReferenceIndex,
    wanted: list[str],
    given: dict[str, float],
) -> tuple[Decision, dict[str, object]]:
    """Answer cells by a representation of the user's; return the answers, and facts for ``uns``."""
    set_mass = mass_of_sets(given.get("coverage"), index)
    candidates: Candidates | None = None
    asked: dict[str, object] = {}
    if wanted:
        candidates, asked = read_covered(wanted, index)
    vectors = query_vectors(matrix_BE, index)
    parts = answer(
        index, vectors.cell_BE, vectors.type_BE, None, candidates=candidates, set_mass=set_mass
    )
    decision = Decision.join(list(parts), sets=set_mass is not None)
    facts: dict[str, object] = {
        "use_rep": index.use_rep, "index": repr(index), "calibrated": calibrated(index),
        **asked, **given,
    }  # fmt: skip
    return decision, facts
