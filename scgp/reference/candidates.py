"""Answers among labels that the user names: the candidates, their evidence, and the choice.

Pure functions on arrays. Knows neither how a candidate was named nor AnnData.

Shapes: B cells, T labels of the reference, C candidates, D width.

A candidate covers the reference labels that are its term or lie below it. A label that several
candidates cover counts for the most specific of them: a broad candidate means "this, and none of
the narrower ones that were asked for". Its share of a stream is what the stream gives to the labels
that count for it.

A candidate that covers nothing has no part in the streams, and stands against the best that does by
its *support*: how it does against the best other label, where it can be compared with it. A term is
compared by the scores of a describing head (`kinship`), which has weights for labels with and
without cells; free text, and where there is no such head, by the cosine of texts.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit, softmax

from scgp.errors import ArgumentError
from scgp.reference.decision import UNKNOWN, Decision
from scgp.reference.evidence import fuse, nearest_text, pool, text_evidence
from scgp.reference.fusion import ALIKE, SLACK, Fusion
from scgp.reference.kinship import TEMPERATURE
from scgp.reference.products import product
from scgp.reference.rivals import at_least_as_sure, rival_mass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology
    from scgp.reference.gene_head import GeneHead

#: Between these a support is turned into odds.
_SURELY = (1e-12, 1 - 1e-12)


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """The labels that may be answered, in an order of their own: the more specific come first.

    The order does not depend on that in which they were named, so neither does a tie.

    Attributes
    ----------
    names, ids
        What is written for each candidate, and its ontology term ("" where it has none).
    text_CD
        Vector of its text in the space of the type slot, float32; zero: none.
    cover_TC
        Label i of the reference is candidate j or lies below it.
    above_CC
        Candidate i lies above candidate j, and is another.
    rival_TC
        Label i of the reference is neither candidate j nor above or below it.
    below_TT
        Label i of the reference is label j or lies below it.
    crossed_TC
        Label i of the reference is candidate j or lies below it, and lies below a rival of it too.
    describing
        The describing head (`kinship.describing_head`): labels of the reference, then candidates.
        None: every candidate covers labels of the reference, or there is no gene head.
    """

    names: list[str]
    ids: list[str]
    text_CD: NDArray[np.float32]
    cover_TC: NDArray[np.bool_]
    above_CC: NDArray[np.bool_]
    rival_TC: NDArray[np.bool_]
    below_TT: NDArray[np.bool_]
    crossed_TC: NDArray[np.bool_]
    describing: GeneHead | None = None

    @property
    def in_reference_C(self) -> NDArray[np.bool_]:
        """Whether any label of the reference counts for the candidate."""
        return np.asarray(self.cover_TC.any(axis=0), bool)


def make_candidates(
    names: Sequence[str],
    ids: Sequence[str],
    text_CD: NDArray[np.float32],
    *,
    labels: Sequence[str],
    label_ids: Sequence[str],
    ontology: Ontology,
) -> Candidates:
    """Relate what was asked for to the labels of a reference.

    Parameters
    ----------
    names, ids, text_CD
        As in `Candidates`, in any order; no term and no name twice. One without a term is the label
        of the reference that has its name and no term either, if there is one.
    labels, label_ids
        Those of the reference.

    Raises
    ------
    ArgumentError
        There is no candidate, or the sizes do not fit together.
    """
    if not names or not len(names) == len(ids) == len(text_CD):
        message = f"{len(names)} names, {len(ids)} ids and {len(text_CD)} texts of candidates"
        raise ArgumentError(message)
    below_C = [len(ontology.descendants(i)) if i else 0 for i in ids]
    order = sorted(range(len(ids)), key=lambda c: (below_C[c], ids[c], names[c]))
    names, ids = [names[c] for c in order], [ids[c] for c in order]
    n = len(ids)
    above = ontology.relation([*ids, *label_ids])
    asked, there = [*zip(names, ids, strict=True)], [*zip(labels, label_ids, strict=True)]
    own_CT = [[not (i or j) and x == y for y, j in there] for x, i in asked]
    own_TC = np.array(own_CT, bool).T
    cover_TC = above[:n, n:].T | own_TC
    rival_TC = ~(above[n:, :n] | cover_TC)
    below_TT = above[n:, n:].T
    return Candidates(
        names=names,
        ids=ids,
        text_CD=np.asarray(text_CD, np.float32)[order],
        cover_TC=cover_TC,
        above_CC=above[:n, :n] & ~np.eye(n, dtype=bool),
        rival_TC=rival_TC,
        below_TT=below_TT,
        crossed_TC=cover_TC & (below_TT.astype(int) @ rival_TC.astype(int) > 0),
    )


def shares(cover_TC: NDArray[np.bool_], above_CC: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return for which candidates each label of the reference counts, T x C.

    A label counts for the most specific candidates that cover it, in equal parts where there are
    several; for none where none covers it.

    Examples
    --------
    A T cell and a CD4 T cell of the reference, asked for "CD4 T cell" and "T cell":

    >>> cover_TC = np.array([[False, True], [True, True]])
    >>> above_CC = np.array([[False, False], [True, False]])
    >>> shares(cover_TC, above_CC).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    has_narrower_TC = cover_TC.astype(int) @ above_CC.T.astype(int) > 0
    share_TC = (cover_TC & ~has_narrower_TC).astype(np.float64)
    divided_TC: NDArray[np.float64] = share_TC / np.maximum(share_TC.sum(axis=1, keepdims=True), 1)
    return divided_TC


def restrict(
    stream_BT: NDArray[np.floating[Any]], share_TC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what a stream says of candidates that cover labels, B x C.

    Rows sum to 1; one without any mass on a candidate is uniform. A candidate whose labels all
    count for narrower ones has 0. A stream that is silent stays so.
    """
    if np.isnan(stream_BT).any():
        return np.full((len(stream_BT), share_TC.shape[1]), np.nan)
    mass_BC = stream_BT.astype(np.float64) @ share_TC
    total_B1 = mass_BC.sum(axis=1, keepdims=True)
    uniform_BC = np.full_like(mass_BC, 1 / share_TC.shape[1])
    has_mass_B1 = total_B1 > np.finfo(float).tiny
    return np.divide(mass_BC, total_B1, out=uniform_BC, where=has_mass_B1)


def text_support(
    type_BD: NDArray[np.floating[Any]],
    text_TD: NDArray[np.floating[Any]],
    candidates: Candidates,
    *,
    temperature: float,
    alike: float = ALIKE,
) -> NDArray[np.float64]:
    """Return how the text of a candidate without reference cells does against the best other text.

    The softmax of the two as in `support_of`, of cosines.
    """
    text_XD = np.concatenate([text_TD, candidates.text_CD])
    logit_BX = product(type_BD, text_XD.T).astype(np.float64) / temperature
    return support_of(logit_BX, text_TD, candidates, alike=alike)


def support_of(
    logit_BX: NDArray[np.floating[Any]],
    text_TD: NDArray[np.floating[Any]],
    candidates: Candidates,
    *,
    alike: float = ALIKE,
) -> NDArray[np.float64]:
    """Return how a candidate without reference cells does against the best other label.

    The softmax of the two, B x C, 0 to 1; NaN for candidates that the reference has cells of. The
    others are all labels of the reference and all candidates that have a text, without those that
    are no rivals (unless there is no other): terms above or below the candidate, and for a free
    text the labels of the reference whose texts have the cosine `alike` with it, with those below.
    Without another text, it is a half.

    Parameters
    ----------
    logit_BX
        For the labels of the reference, then the candidates.
    """
    unseen_C = ~candidates.in_reference_C
    support_BC = np.full((len(logit_BX), len(unseen_C)), np.nan)
    if not unseen_C.any():
        return support_BC
    text_XD = np.concatenate([text_TD, candidates.text_CD])
    has_text_X1 = np.any(text_XD != 0, axis=1)[:, None]
    line_CC = candidates.above_CC | candidates.above_CC.T
    other_CC = ~np.eye(len(unseen_C), dtype=bool)
    free_C = np.array([not i for i in candidates.ids])
    alike_TC = free_C & (text_TD @ candidates.text_CD.T >= alike)
    alike_TC = candidates.below_TT @ alike_TC.astype(int) > 0
    rival_XC = np.concatenate([candidates.rival_TC & ~alike_TC, other_CC & ~line_CC]) & has_text_X1
    other_XC = np.concatenate([~candidates.cover_TC, other_CC]) & has_text_X1
    rival_XC = np.where(rival_XC.any(axis=0), rival_XC, other_XC)
    for c in np.flatnonzero(unseen_C):
        own_B = logit_BX[:, len(text_TD) + c]
        rivals = np.flatnonzero(rival_XC[:, c])
        best_B = logit_BX[:, rivals].max(axis=1) if len(rivals) else own_B
        support_BC[:, c] = expit(own_B - best_B)
    return support_BC


def choose(
    streams: Mapping[str, NDArray[np.floating[Any]]],
    candidates: Candidates,
    type_BD: NDArray[np.floating[Any]],
    text_TD: NDArray[np.floating[Any]],
    *,
    nearest_B: NDArray[np.floating[Any]],
    fusion: Fusion,
    empty_B: NDArray[np.bool_],
    described_BX: NDArray[np.floating[Any]] | None = None,
    covered_B: NDArray[np.floating[Any]] | None = None,
) -> Decision:
    """Answer every cell with a candidate or "unknown".

    The leaf is the candidate of the highest fused probability among the candidates; nearness in the
    ontology has no part in it. It is the answer if its confidence reaches the threshold, or else
    the most specific candidate above it whose confidence does. The confidence is that of the mass
    which a candidate, with all labels below it, has among *all* labels of the reference: what lies
    outside the candidates speaks against them, and more so a label that excludes the candidate and
    has more mass (`Fusion.confidence`); and it is no less than that of a label which the candidate
    covers would be. That of a candidate without reference cells is its
    support by the describing head, or is taken from its `text_support` where that does not describe
    it. A cell unlike every reference cell, or unlike the texts of all labels and candidates, is
    "unknown", unless it is of a candidate that the head describes and all labels have a text. Texts
    are compared only where all labels, or all candidates, have one.

    Parameters
    ----------
    streams
        Evidence for the labels of the reference, each B x T (`scgp.reference.answer.streams_of`).
    type_BD, text_TD
        Type vectors of the cells, and text vectors of the labels.
    nearest_B
        Cosine of each cell to its nearest reference cell.
    fusion
        How streams are fused, and when a cell is called.
    empty_B
        Cells without a count: no answer.
    described_BX
        Scores of the describing head, if the candidates have one.
    covered_B
        How likely each cell is of a type of the reference at all (`background.Reading`): no
        candidate that has reference cells is surer. None: the reference has no background.
    """
    covered_C = candidates.in_reference_C
    if "text" in streams and not _all_have_text(text_TD):
        streams = {**streams, "text": np.full_like(streams["text"], np.nan)}
    pooled_BT = pool(streams, fusion) if fusion.pooled else fuse(streams, fusion)
    near_B1 = np.asarray(nearest_B, float)[:, None]
    near_text_B = nearest_text(type_BD, np.concatenate([text_TD, candidates.text_CD]))
    like_B = (nearest_B >= fusion.novelty_threshold) & (near_text_B >= fusion.novelty_text)
    support_BC = text_support(
        type_BD, text_TD, candidates, temperature=fusion.temperature_text, alike=fusion.alike
    )
    mass_BC = np.where(covered_C, pooled_BT @ candidates.cover_TC, support_BC)
    rolled_BT = product(pooled_BT, candidates.below_TT)
    rival_BC = rival_mass(rolled_BT, candidates.rival_TC)
    sure_BC = fusion.confidence(mass_BC, near_B1, np.where(covered_C, rival_BC, 0.0))
    sure_BC = at_least_as_sure(sure_BC, rolled_BT, near_B1, candidates, fusion)
    asked_BC = np.broadcast_to(like_B[:, None], sure_BC.shape)
    if described_BX is not None:
        described_C = ~covered_C & np.array([bool(i) for i in candidates.ids])
        logit_BX = described_BX.astype(np.float64) / TEMPERATURE
        own_BC = support_of(logit_BX, text_TD, candidates)
        support_BC, sure_BC = (np.where(described_C, own_BC, x) for x in (support_BC, sure_BC))
        if _all_have_text(text_TD):  # else a label that cannot be compared may fit as well
            asked_BC = asked_BC | described_C
    if covered_B is not None:
        capped_BC = np.minimum(sure_BC, np.asarray(covered_B, float)[:, None])
        sure_BC = np.where(covered_C, capped_BC, sure_BC)
    posterior_BC = _posterior(streams, candidates, type_BD, fusion, support_BC)
    best_B = posterior_BC.argmax(axis=1)
    upwards_CC = candidates.above_CC.T | np.eye(len(covered_C), dtype=bool)
    sure_enough_BC = upwards_CC[best_B] & asked_BC & (sure_BC >= fusion.threshold - SLACK)
    # candidates are in order: the first is the most specific
    code_B = np.where(sure_enough_BC.any(axis=1), sure_enough_BC.argmax(axis=1), -1)
    return _write_out(candidates, best_B, code_B, sure_BC, empty_B)


def _all_have_text(text_TD: NDArray[np.floating[Any]]) -> bool:
    """Whether texts can be compared: the only one would win for every cell."""
    return bool(np.any(text_TD != 0, axis=1).all())


def _posterior(
    streams: Mapping[str, NDArray[np.floating[Any]]],
    candidates: Candidates,
    type_BD: NDArray[np.floating[Any]],
    fusion: Fusion,
    support_BC: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fuse the streams over the covered candidates, and let the others stand against the best.

    Each covered candidate is compared with the cell by its own text. One that covers nothing has
    the odds of its support. Rows do not sum to 1: what counts is which is the largest.
    """
    covered_C = candidates.in_reference_C
    covered, unseen = np.flatnonzero(covered_C), np.flatnonzero(~covered_C)
    odds_BX = logit(np.clip(support_BC[:, unseen], *_SURELY))
    if len(covered):
        odds_BX = np.column_stack([np.zeros(len(type_BD)), odds_BX])
    share_BX = softmax(odds_BX, axis=1)
    posterior_BC = np.zeros_like(support_BC)
    posterior_BC[:, unseen] = share_BX[:, share_BX.shape[1] - len(unseen) :]
    if len(covered):
        above_CC = candidates.above_CC[np.ix_(covered, covered)]
        share_TC = shares(candidates.cover_TC[:, covered], above_CC)
        among = {name: restrict(x, share_TC) for name, x in streams.items() if name != "text"}
        if "text" in streams:
            text_CD = candidates.text_CD[covered]
            text_BC = text_evidence(type_BD, text_CD, temperature=fusion.temperature_text)
            among["text"] = text_BC if _all_have_text(text_CD) else np.full_like(text_BC, np.nan)
        fused_BC = fuse(among, fusion)
        best_B1 = fused_BC.max(axis=1, keepdims=True)
        posterior_BC[:, covered] = fused_BC / best_B1 * share_BX[:, :1]
    return posterior_BC


def _write_out(
    candidates: Candidates,
    best_B: NDArray[np.intp],
    code_B: NDArray[np.intp],
    sure_BC: NDArray[np.float64],
    empty_B: NDArray[np.bool_],
) -> Decision:
    """Turn codes (-1: none) into names: a candidate, "unknown", or nothing for an empty cell."""
    cells = np.arange(len(code_B))
    kind_B = np.where(empty_B, "empty", np.where(code_B >= 0, "labelled", UNKNOWN))
    labelled_B = kind_B == "labelled"
    names, ids = np.array([*candidates.names], object), np.array([*candidates.ids], object)
    label_B = np.where(labelled_B, names[code_B], UNKNOWN)
    label_B[empty_B] = None
    leaf_mass_B = np.where(empty_B, 0, sure_BC[cells, best_B])
    return Decision(
        label=label_B,
        ontology_id=np.where(labelled_B, ids[code_B], ""),
        confidence=np.where(labelled_B, sure_BC[cells, code_B], 0).astype(np.float32),
        status=kind_B.astype(object),
        leaf=np.where(empty_B, "", names[best_B]),
        leaf_confidence=leaf_mass_B.astype(np.float32),
    )
