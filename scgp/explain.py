"""explain(): why annotate gave a cell its label.

Owns the answers and which label of each cell is explained. Must not know which cells a user names
(`chosen`), what the streams say (`stream_tables`) or how genes are removed (`occlusion`). Writes
nothing.

Shape suffixes: B cells, T labels of the reference, V columns of the matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.asking import asking_for, check_confidence, check_tissue, given_facts
from scgp.cells.counts import choose_counts
from scgp.cells.genes import match_genes
from scgp.device import resolve_device
from scgp.embed import measured_by, resolve_model, warn_empty
from scgp.explaining.chosen import chosen_cells
from scgp.explaining.explanation import Explanation, make_table
from scgp.explaining.occlusion import Subject, embed_scored, gene_tables
from scgp.explaining.stream_tables import StreamTables
from scgp.number import whole_number
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import answer, reading_of, unlike_reference
from scgp.reference.background import lies_outside
from scgp.reference.decision import UNKNOWN, Decision
from scgp.slots import check_adata
from scgp.tissues import of_tissue
from scgp.which import opened, resolve_index

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import anndata as ad
    import scipy.sparse as sp

    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex


def explain(
    adata: ad.AnnData,
    cells: str | int | Iterable[str] | Iterable[int] | Iterable[bool],
    *,
    reference: ad.AnnData | None = None,
    label_key: str | None = None,
    index: ReferenceIndex | str | Path | None = None,
    model: Model | str | Path | None = None,
    tissue: str | None = None,
    min_confidence: float | None = None,
    min_confidence_broader: float | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    n: int = 5,
    n_genes: int = 10,
    device: str | None = None,
    progress: bool = False,
) -> Explanation:
    """Show what stands behind the answers of :func:`scgp.annotate`, cell by cell.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. It is only read.
    cells
        The cells to explain, at most 200: a name of ``obs_names``, a position, a list of either, or
        a boolean mask with one value a cell.
    reference, label_key, index, model, tissue, min_confidence, min_confidence_broader
        As given to :func:`scgp.annotate`. An answer with its ``use_rep=``, or among its
        ``labels=``, is not explained.
    layer, use_raw
        As given to :func:`scgp.annotate`.
    n
        Nearest cells, texts, and labels of each stream that are told.
    n_genes
        Genes for and genes against the label that are told; 0 leaves them out, and saves about
        half of the time.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU.
    progress
        Show a progress bar.

    Returns
    -------
    A :class:`scgp.explaining.explanation.Explanation`: the tables ``answer``, ``neighbours``,
    ``texts``, ``streams``, ``pairs`` and ``genes``, in the order of `cells`. An empty cell is in
    ``answer`` alone.

    Raises
    ------
    ArgumentError
        `cells` names no cell, one that is not there or not unique, one twice, or more than 200; or
        another argument has a value that cannot be used.
    CountsError, GeneError, MissingColumnError, FingerprintError, DeviceError
        As in :func:`scgp.annotate`.

    Warns
    -----
    ScgpWarning
        As in :func:`scgp.annotate`.

    Notes
    -----
    Genes are judged by occlusion (Zeiler and Fergus 2014): the counts of one gene are set to zero,
    the cell is normalised anew and goes through network, gene head and fusion again. The number is
    the *fused* probability of the label and all labels below it; it chooses the label, and is not
    the calibrated confidence.

    What this shows, and what it does not:

    - Of all expressed genes, those are removed whose effect is largest on first sight, 32 or more
      of each direction: the gradient of the label's log odds times the change of all values. A
      gene that acts only through a sharp bend of the model can be missed.
    - One gene is removed at a time. Where several say the same, none alone is missed much, and all
      have small numbers.
    - A gene of which the cell has no count cannot be removed: what the model makes of its absence
      is not shown.
    - The fusion multiplies, so that labels on which the streams agree win. A marker can count
      against a label because it moves one stream to that label and another to one below it. The
      confidence, which rests on the mean of the streams, is less prone to it: look at both.
    - The pairwise stream names one label: a gene whose loss makes it name another has a large
      number, for or against, though it tips the scales and is not what fills them.
    - It says what the model used, not what makes the cell what it is.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> why = scgp.explain(adata, "AAAGCCTGGCTAAC-1")
    >>> why.answer["label"].tolist()
    ['non-classical monocyte']
    >>> why.genes["gene"].tolist()[0]  # CD16, which is what tells them from classical monocytes
    'FCGR3A'
    >>> sorted(set(why.streams["stream"]))
    ['described', 'fused', 'gene', 'head', 'neighbour', 'pairwise', 'text']
    """
    check_adata(adata)
    n, n_genes = whole_number(n, "n", least=1), whole_number(n_genes, "n_genes", least=0)
    row_B = chosen_cells(adata, cells)
    on = resolve_device(device)
    model = resolve_model(model)
    index = None if index is None else opened(index, model.fingerprint)
    counts = choose_counts(adata, layer=layer, use_raw=use_raw)
    check_tissue(tissue, (), reference)
    check_confidence(min_confidence, min_confidence_broader)
    index = resolve_index(
        reference, label_key, index, model, batch_size=1024, device=device, progress=progress
    )
    index = asking_for(min_confidence, min_confidence_broader, index)
    index, of_cells = of_tissue(tissue, index)
    match = match_genes(counts, model.genes)
    block_BV = counts.take(row_B)
    vectors, score_BT, winner_B = embed_scored(
        model, index, iter([block_BV]), match.token_of_column, device=on
    )
    warn_empty(vectors, "there is nothing to explain in them")
    names = [str(name) for name in adata.obs_names[row_B]]
    parts = answer(index, vectors.cell_BE, vectors.type_BE, score_BT, winner_B=winner_B)
    decision = Decision.join(list(parts))
    told = StreamTables.make(names, index, vectors, score_BT, winner_B)
    counted_BT = counted_labels(decision, index)
    probability_B = (told.fused_BT * counted_BT).sum(axis=1)
    sure_B = np.where(decision.status == UNKNOWN, decision.leaf_confidence, decision.confidence)
    subjects = [
        Subject(
            name=names[b],
            row_1V=block_BV[b],
            score_T=None if score_BT is None else score_BT[b],
            counted_T=counted_BT[b],
            probability=float(probability_B[b]),
            confidence=float(sure_B[b]),
            term_id=str(decision.ontology_id[b]) if decision.status[b] == "ancestor" else "",
        )
        for b in told.filled
    ]
    genes = gene_tables(
        model, index, subjects if n_genes else [], match.token_of_column, n_genes=n_genes,
        device=on, progress=progress,
    )  # fmt: skip
    value_BG = model.tokenizer.tokenize(block_BV, match.token_of_column).values(
        model.config.n_genes
    )
    pairs = told.pair_rows(
        score_BT, value_BG, measured_by(match.token_of_column, model.config.n_genes),
        np.asarray(model.genes.symbol, object),
    )  # fmt: skip
    n_expressed_B = [_n_expressed(row_V, match.token_of_column) for row_V in block_BV]
    facts: dict[str, object] = {
        "model": model.fingerprint, "counts": counts.where, "n_genes_matched": match.n_matched,
        "n_genes": len(counts.var_names), "index": repr(index), **of_cells,
        **given_facts(None, min_confidence, min_confidence_broader),
    }  # fmt: skip
    answers = _answer_rows(decision, told, probability_B, n_expressed_B)
    answers["doubt"] = _doubts(decision, told)
    return Explanation(
        answer=make_table("answer", [answers]),
        neighbours=make_table("neighbours", told.neighbour_rows(n)),
        texts=make_table("texts", told.text_rows(n)),
        streams=make_table("streams", told.stream_rows(n, counted_BT)),
        pairs=make_table("pairs", pairs),
        genes=make_table("genes", genes),
        facts=facts,
    )


def explained_labels(decision: Decision) -> np.ndarray:
    """Return the label that is explained: the answer, or the best label of an unknown cell."""
    label_B = np.where(decision.label == UNKNOWN, decision.leaf, decision.label)
    return np.where(decision.status == "empty", "", label_B)


def counted_labels(decision: Decision, index: ReferenceIndex) -> np.ndarray:
    """Return which labels count for the explained one of each cell: itself and those below it."""
    ontology = Ontology("CL")
    id_of = dict(zip(index.labels, index.label_ids, strict=True))
    labels, ids = np.array(index.labels, object), np.array(index.label_ids, object)
    counted_BT = np.zeros((len(decision.label), len(labels)), bool)
    answered = zip(explained_labels(decision), decision.ontology_id, decision.status, strict=True)
    for b, (label, answered_id, status) in enumerate(answered):
        term = id_of[label] if status == UNKNOWN else answered_id
        below = ontology.descendants(term) if term else frozenset()
        counted_BT[b] = np.isin(ids, sorted(below)) if term else labels == label
    return counted_BT


def _doubts(decision: Decision, told: StreamTables) -> np.ndarray:
    """Return why the best label of each cell is not its answer; "" where the cell has a label."""
    index, type_BE = told.index, told.vectors.type_BE
    fusion = index.calibration
    reading = reading_of(index, type_BE, fusion)
    unlike_B = unlike_reference(index, type_BE, told.nearest_B, fusion)
    outside_B = (
        np.zeros(len(unlike_B), bool)
        if reading is None
        else lies_outside(reading, fusion.threshold)
    )
    doubt_B = np.select([outside_B, unlike_B], ["outside", "unlike"], "unsure").astype(object)
    return np.where(np.isin(decision.status, ["labelled", "empty"]), "", doubt_B)


def _n_expressed(row_V: sp.csr_matrix, token_V: np.ndarray) -> int:
    """Return how many genes of the model a cell expresses."""
    return len(set(token_V[row_V.indices].tolist()) - {-1})


def _answer_rows(
    decision: Decision, told: StreamTables, probability_B: np.ndarray, n_genes_B: list[int]
) -> dict[str, Any]:
    """Return the rows of ``Explanation.answer``."""
    filled_B = decision.status != "empty"
    return {
        "cell": told.names,
        "label": decision.label,
        "ontology_id": decision.ontology_id,
        "confidence": decision.confidence,
        "status": decision.status,
        "leaf": decision.leaf,
        "leaf_confidence": decision.leaf_confidence,
        "nearest_cosine": np.where(filled_B, told.nearest_B, np.nan),
        "explained": explained_labels(decision),
        "probability": np.where(filled_B, probability_B, np.nan),
        "n_genes": n_genes_B,
    }
