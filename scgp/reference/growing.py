"""An index with more cells, or fewer, or of several shards: vectors shared, labels made anew.

Knows what becomes of each part of an index when its cells change (docs/formats.md has the table);
must not know how vectors are searched or stored.

Shapes: N cells, T labels, D width, H genes of the gene head.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError, FingerprintError, warn_user
from scgp.reference.contents import content_fault, maker_fault, text_codes
from scgp.reference.head import draw, fit_head
from scgp.reference.kinship import shared_head
from scgp.reference.store import VectorStore, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scgp.reference.background import Background
    from scgp.reference.fusion import Fusion
    from scgp.reference.gene_head import GeneHead
    from scgp.reference.index import ReferenceIndex
    from scgp.reference.pairwise import PairwiseProfiles


def merged(
    indexes: Sequence[ReferenceIndex],
    *,
    likeness_TT: NDArray[np.floating[Any]] | None,
    search: str,
    seed: int,
) -> ReferenceIndex:
    """Return the index of `ReferenceIndex.merge`."""
    if not indexes:
        message = "there is no index to merge; pass a list of one or more"
        raise ArgumentError(message)
    _check_alike(indexes)
    first = indexes[0]
    if len(indexes) == 1 and likeness_TT is None:  # the same cells: nothing is fitted anew
        return first if search == "auto" else _searched(first, search=search, seed=seed)
    indexes = _named_alike(indexes)
    labels = sorted({label for index in indexes for label in index.labels})
    studies = sorted({study for index in indexes for study in index.studies})
    code_N = _recoded([(i.code_N, i.labels) for i in indexes], labels)
    store = joined([index.store for index in indexes], search=search, seed=seed)
    weight_TD, bias_T = linear_head(store, code_N, len(labels), likeness_TT, seed)
    with_head = next((i for i in indexes if i.gene_head is not None), first)
    index = dataclasses.replace(
        first,
        store=store,
        labels=labels,
        label_ids=_ids(indexes, labels),
        code_N=code_N,
        studies=studies,
        study_N=_recoded([(i.study_N, i.studies) for i in indexes], studies),
        drawn_N=np.concatenate([index.drawn_N for index in indexes]),
        text_TD=_texts(indexes, labels),
        head_weight_TD=weight_TD,
        head_bias_T=bias_T,
        calibration=without_promises(first.calibration),
        names_N=_names(indexes),
        gene_head=_for_labels(with_head.gene_head, with_head.labels, labels),
        profiles=next((i.profiles for i in indexes if i.profiles is not None), None),
        background=_background(indexes, labels),
        pairwise=_pairwise(indexes, labels),
        opened=None,
    )
    return _checked(index)


def _searched(index: ReferenceIndex, *, search: str, seed: int) -> ReferenceIndex:
    """Return the index with its vectors in the segments that a merge makes."""
    store = joined([index.store], search=search, seed=seed)
    return dataclasses.replace(index, store=store, opened=None)


def thinned(
    index: ReferenceIndex,
    removed: NDArray[Any] | Sequence[int] | Sequence[bool],
    *,
    likeness_TT: NDArray[np.floating[Any]] | None,
    seed: int,
) -> ReferenceIndex:
    """Return the index of `ReferenceIndex.remove`."""
    kept_N = ~_mask(np.asarray(removed), index.n_cells)
    if kept_N.all() and likeness_TT is None:
        return index
    if not kept_N.any():
        message = f"all {index.n_cells} cells would be removed; an index needs one"
        raise ArgumentError(message)
    label_T = np.unique(index.code_N[kept_N])
    study_S = np.unique(index.study_N[kept_N])
    labels = [index.labels[t] for t in label_T]
    code_N = np.searchsorted(label_T, index.code_N[kept_N]).astype(np.int32)
    store = index.store.kept(kept_N)
    weight_TD, bias_T = linear_head(store, code_N, len(labels), likeness_TT, seed)
    thinner = dataclasses.replace(
        index,
        store=store,
        labels=labels,
        label_ids=[index.label_ids[t] for t in label_T],
        code_N=code_N,
        studies=[index.studies[s] for s in study_S],
        study_N=np.searchsorted(study_S, index.study_N[kept_N]).astype(np.int32),
        drawn_N=index.drawn_N[kept_N],
        text_TD=index.text_TD[label_T],
        head_weight_TD=weight_TD,
        head_bias_T=bias_T,
        calibration=without_promises(index.calibration),
        names_N=None if index.names_N is None else index.names_N[kept_N],
        gene_head=_for_labels(index.gene_head, index.labels, labels),
        background=_thinned_background(index, label_T, code_N),
        pairwise=None if index.pairwise is None else index.pairwise.taken(label_T),
        opened=None,
    )
    return _checked(thinner)


def _thinned_background(
    index: ReferenceIndex, label_T: NDArray[np.integer], code_N: NDArray[np.int32]
) -> Background | None:
    """Return the background of the labels left, as if those cells had been like the others."""
    if index.background is None:
        return None
    share_T = np.bincount(code_N, minlength=len(label_T)) / index.cells_per_label_T[label_T]
    return index.background.taken(label_T.tolist(), share_T)


def _mask(removed: NDArray[Any], n_cells: int) -> NDArray[np.bool_]:
    """Return which cells are meant: by rows, or by one True or False a cell."""
    if removed.dtype == np.bool_ and removed.shape == (n_cells,):
        return removed
    whole = np.issubdtype(removed.dtype, np.integer) or not removed.size
    if removed.ndim != 1 or not whole:
        message = (
            f"cells to remove have the shape {removed.shape} and the type {removed.dtype}; "
            f"expected rows (whole numbers), or {n_cells} values that are True or False"
        )
        raise ArgumentError(message)
    if removed.size and (removed.min() < 0 or removed.max() >= n_cells):
        found = f"{removed.min()} to {removed.max()}"
        message = f"rows to remove go from {found}; expected 0 to {n_cells - 1}"
        raise ArgumentError(message)
    mask_N = np.zeros(n_cells, bool)
    mask_N[removed.astype(np.int64)] = True
    return mask_N


def known_terms(
    index: ReferenceIndex,
    labels: Sequence[str],
    label_ids: Sequence[str] | None,
    text_TD: NDArray[np.float32] | None,
) -> tuple[Sequence[str], NDArray[np.float32]]:
    """Return terms and text vectors of added labels: as given, or those that the index has."""
    names = text_codes(labels, len(labels), "labels")[1]
    id_of = dict(zip(index.labels, index.label_ids, strict=True))
    if label_ids is None:
        label_ids = [id_of.get(name, "") for name in names]
    if text_TD is None:
        text_TD = np.zeros((len(names), index.text_TD.shape[1]), np.float32)
    return label_ids, text_TD


def _checked(index: ReferenceIndex) -> ReferenceIndex:
    if fault := content_fault(index, n_cells=index.n_cells, width=index.width):
        message = f"cannot make an index: {fault}"
        raise ArgumentError(message)
    return index


def without_promises(fusion: Fusion) -> Fusion:
    """Return a calibration without what was measured on the very cells of a reference.

    These are the masses of label sets and the bound of text novelty, as in `scgp.build_index`.
    """
    return dataclasses.replace(fusion, novelty_text=-1.0, set_mass=(), set_cells=0)


def _check_alike(indexes: Sequence[ReferenceIndex]) -> None:
    """Refuse vectors that cannot be compared."""
    first = indexes[0]
    for i, other in enumerate(indexes[1:], 1):
        if fault := maker_fault(other.model_fingerprint, first.model_fingerprint):
            message = f"index {i} of those to merge {fault}"
            raise FingerprintError(message)
        widths = [(x.width, x.text_TD.shape[1]) for x in (first, other)]
        if widths[0] != widths[1]:
            message = (
                f"index {i} has vectors and texts of the widths {widths[1]}, the first has "
                f"{widths[0]}; expected the same"
            )
            raise ArgumentError(message)
        centres = [x.centre_D for x in (first, other)]
        if not np.array_equal(np.asarray(centres[0]), np.asarray(centres[1])):
            message = (
                f"index {i} has another mean taken from its representation (centre_D) than the "
                "first, so that their vectors cannot be compared; build one index of all cells"
            )
            raise ArgumentError(message)


def _named_alike(indexes: Sequence[ReferenceIndex]) -> list[ReferenceIndex]:
    """Call a term in every index as the first one does that has it, and tell which were renamed.

    Their labels are then in no order, and two of one index may be the same.
    """
    there: set[str] = set()
    name_of: dict[str, str] = {}
    named: list[ReferenceIndex] = []
    told: dict[str, str] = {}
    for index in indexes:
        own = list(zip(index.labels, index.label_ids, strict=True))
        labels = [label if label in there else name_of.get(term, label) for label, term in own]
        told |= {old: new for old, new in zip(index.labels, labels, strict=True) if old != new}
        named.append(dataclasses.replace(index, labels=labels) if labels != index.labels else index)
        there.update(labels)
        for label, (_, term) in zip(labels, own, strict=True):
            if term:
                name_of.setdefault(term, label)
    if told:
        pairs = ", ".join(f"{old!r} as {new!r}" for old, new in told.items())
        warn_user(f"names of one term in the indexes become one label: {pairs}")
    return named


def _recoded(parts: list[tuple[NDArray[np.int32], list[str]]], names: list[str]) -> Any:
    """Return codes of all parts in the order of the names of all."""
    there = np.array(names, object)
    code = [np.searchsorted(there, np.array(own, object))[code_N] for code_N, own in parts]
    return np.concatenate(code).astype(np.int32)


def _ids(indexes: Sequence[ReferenceIndex], labels: list[str]) -> list[str]:
    """Return the terms of the labels; a label cannot have two."""
    id_of: dict[str, str] = {}
    for index in indexes:
        for label, term in zip(index.labels, index.label_ids, strict=True):
            if label in id_of and id_of[label] != term:
                message = (
                    f"the label {label!r} has the term {id_of[label]!r} in one index and {term!r} "
                    "in another; rename one of them, or give both the same"
                )
                raise ArgumentError(message)
            id_of[label] = term
    return [id_of[label] for label in labels]


def _texts(indexes: Sequence[ReferenceIndex], labels: list[str]) -> NDArray[np.float32]:
    """Return the text vector of each label: of the first index that has one for it."""
    text_TD = np.zeros((len(labels), indexes[0].text_TD.shape[1]), np.float32)
    for index in reversed(indexes):
        has = np.flatnonzero(np.any(index.text_TD, axis=1))
        place = np.searchsorted(labels, [index.labels[t] for t in has])
        text_TD[place] = index.text_TD[has]
    return text_TD


def _background(indexes: Sequence[ReferenceIndex], labels: list[str]) -> Background | None:
    """Return the background of all labels, with what was read of the cells of each.

    None where the first index has none, or where nothing is known of a label: neither has the model
    been trained on it, nor are its cells read.
    """
    first = indexes[0].background
    if first is None:
        return None
    read_TU = np.zeros((len(labels), len(first.ids)), np.float32)
    for index in indexes:
        if index.background is not None and index.background.ids == first.ids:
            np.add.at(read_TU, np.searchsorted(labels, index.labels), index.background.read_TU)
    ids = tuple(_ids(indexes, labels))
    whole = dataclasses.replace(first, label_ids=ids, read_TU=read_TU)
    return whole if np.all(whole.known_T | read_TU.any(axis=1)) else None


def _pairwise(indexes: Sequence[ReferenceIndex], labels: list[str]) -> PairwiseProfiles | None:
    """Return the pairwise profiles of the first index, if they know all labels with real cells.

    A label that they lack could not win, however like its cells are to it.
    """
    first = indexes[0]
    if first.pairwise is None:
        return None
    known = {first.labels[t] for t in np.unique(first.pairwise.label_P)}
    real = {i.labels[t] for i in indexes for t in np.unique(i.code_N[~i.drawn_N])}
    place = {label: t for t, label in enumerate(first.labels)}
    there = np.array([place.get(label, -1) for label in labels])
    return first.pairwise.taken(there) if real <= known else None


def _names(indexes: Sequence[ReferenceIndex]) -> NDArray[np.str_] | None:
    """Return the names of the cells, "" for those of an index without names."""
    if all(index.names_N is None for index in indexes):
        return None
    return np.concatenate(
        [np.full(i.n_cells, "") if i.names_N is None else i.names_N for i in indexes]
    )


def linear_head(
    store: VectorStore,
    code_N: NDArray[np.int32],
    n_labels: int,
    likeness_TT: NDArray[np.floating[Any]] | None,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit the linear head of an index; only the vectors of the cells drawn for it are read."""
    rows = draw(code_N, seed)
    weight_TD, bias_T = fit_head(store.at(rows), code_N[rows], n_labels, seed=seed)
    if likeness_TT is None:
        return weight_TD, bias_T
    if np.shape(likeness_TT) != (n_labels, n_labels):
        message = (
            f"likeness_TT has the shape {np.shape(likeness_TT)}, expected {(n_labels, n_labels)}: "
            "all labels of the new index, sorted"
        )
        raise ArgumentError(message)
    return shared_head(weight_TD, bias_T, likeness_TT)


def _for_labels(head: GeneHead | None, own: list[str], labels: list[str]) -> GeneHead | None:
    """Return a gene head for these labels: it is silent on those that it was not fitted to."""
    if head is None or own == labels:
        return head
    place = {label: t for t, label in enumerate(own) if not np.isnan(head.bias_T[t])}
    known_T = np.array([label in place for label in labels])
    if not known_T.any():
        return None
    old = [place[label] for label in labels if label in place]
    shape = (len(head.gene_H), len(labels))
    weight_HT, bias_T = np.zeros(shape, np.float16), np.full(len(labels), np.nan, np.float32)
    weight_HT[:, known_T], bias_T[known_T] = head.weight_HT[:, old], head.bias_T[old]
    described_HT = None
    if head.described_HT is not None:
        described_HT = np.zeros(shape, np.float16)
        described_HT[:, known_T] = head.described_HT[:, old]
    return dataclasses.replace(head, weight_HT=weight_HT, bias_T=bias_T, described_HT=described_HT)
