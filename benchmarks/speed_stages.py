"""Where the time of ``annotate`` goes, stage by stage, beside the least it could take.

The floor of a stage is the larger of its operations over the rate of a large matrix product, and
its bytes over the rate of a large copy, both measured in the same process on one thread. Bytes are
those that must be touched once: what caches save is not counted for, nor what is read again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

#: Cells of a block of `annotate`, and of a call of the network.
BLOCK, CHUNK = 1024, 256
#: Genes that the pairwise stream compares a cell over, on average.
MARKERS = 150
#: Side of the product, and numbers of the copy, that the machine is measured with.
SIDE, COPIED = 2048, 1 << 26


@dataclass(frozen=True)
class Stage:
    """One stage: what a cell needs, and what it took."""

    name: str
    operations: float
    bytes: float
    seconds: float

    def floor(self, machine: Machine) -> float:
        """Return the seconds a cell needs at least."""
        return max(self.operations / machine.operations, self.bytes / machine.bytes)


@dataclass(frozen=True)
class Machine:
    """Rates of one thread: operations a second in float32 and bfloat16, bytes a second."""

    operations: float
    operations_bf16: float
    bytes: float


def _best(action: Callable[[], object], turns: int = 5) -> float:
    """Return the shortest time of some turns, after one that is not counted."""
    action()
    found = []
    for _ in range(turns):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return min(found)


def measure_machine() -> Machine:
    """Measure one thread of this machine."""
    import numpy as np
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = []
        for kind in (torch.float32, torch.bfloat16):
            left, right = torch.randn(SIDE, SIDE).to(kind), torch.randn(SIDE, SIDE).to(kind)
            out = torch.empty(SIDE, SIDE, dtype=kind)
            seconds = _best(lambda a=left, b=right, c=out: torch.mm(a, b, out=c))
            rates.append(2 * SIDE**3 / seconds)
    finally:
        torch.set_num_threads(before)
    source = np.ones(COPIED, np.float32)
    target = np.empty_like(source)
    copied = 2 * source.nbytes / _best(lambda: np.copyto(target, source))
    return Machine(rates[0], rates[1], copied)


def measure_stages(adata: ad.AnnData, model: Any) -> tuple[list[Stage], float]:
    """Time every stage on one thread, one after another; also return the nonzeros of a cell."""
    import faiss
    import numpy as np
    import scipy.sparse as sp
    import torch

    from scgp.cells.counts import choose_counts
    from scgp.cells.genes import match_genes
    from scgp.embed import CellVectors, embed_chunk, measured_by
    from scgp.own import model_index
    from scgp.reference.answer import answer, winners_of

    index, config = model_index(model), model.config
    assert index.gene_head is not None
    counts = choose_counts(adata)
    token_V = match_genes(counts, model.genes).token_of_column
    measured_G = measured_by(token_V, config.n_genes)
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    seconds: dict[str, float] = {}
    in_head_V = np.isin(token_V, index.gene_head.gene_H)
    n_cells = entries = scored_entries = 0

    def timed(name: str, action: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        found = action(*given)
        if n_cells:  # the first block compiles and loads
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return found

    try:
        for start in range(0, counts.n_cells - BLOCK + 1, BLOCK):
            rows = timed("read", counts.rows, start, start + BLOCK)
            vectors, scores, kept = [], [], []
            for first in range(0, BLOCK, CHUNK):
                part = rows[first : first + CHUNK]
                tokens = timed("tokens", model.tokenizer.tokenize, part, token_V)
                vectors.append(timed("network", embed_chunk, model, tokens, "cpu"))
                values = tokens.values(config.n_genes)
                scores.append(timed("gene head", index.gene_head.scores, values, measured_G))
                kept.append(values)
            cells = CellVectors.join(vectors, config.embed_dim)
            score_BS, value_BG = np.concatenate(scores), sp.vstack(kept, format="csr")
            winner_B = timed(
                "pairwise", winners_of, index, cells.cell_BE, score_BS, value_BG, measured_G
            )
            timed("search", index.search, cells.cell_BE, index.calibration.k)
            timed(
                "search, evidence and decision",
                lambda c=cells, s=score_BS, w=winner_B: list(
                    answer(index, c.cell_BE, c.type_BE, s, winner_B=w)
                ),
            )
            n_cells, entries = n_cells + BLOCK, entries + rows.nnz
            scored_entries += int(in_head_V[rows.indices].sum())
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
    of = {name: value / (n_cells - BLOCK) for name, value in seconds.items()}
    of["evidence and decision"] = of.pop("search, evidence and decision") - of["search"]
    nonzeros = entries / n_cells
    needs = _needs(model, index, nonzeros, scored_entries / n_cells, adata.X.dtype.itemsize)
    return [Stage(name, *need, of[name]) for name, need in needs.items()], nonzeros


def _needs(
    model: Any, index: Any, nonzeros: float, scored: float, itemsize: int
) -> dict[str, tuple[float, float]]:
    """Return the operations and bytes of a cell, by stage."""
    from scgp.reference.pairwise import N_CANDIDATES

    pool, width = model.config.pool_width, model.config.embed_dim
    labels, scores = len(index.labels), index.gene_head.n_scores
    n_profiles = len(index.pairwise.label_P)
    profiles = N_CANDIDATES * n_profiles / len(set(index.pairwise.label_P.tolist()))
    return {
        # value and column of every entry in, as float32 and int32 out
        "read": (0.0, nonzeros * (itemsize + 4 + 8)),
        # entries in; gene and value of each out, as int64 and float32
        "tokens": (4 * nonzeros, nonzeros * (8 + 12)),
        # a row of the table for each entry, and two small layers
        "network": (2 * pool * (nonzeros + pool + 4 * width), nonzeros * 4 * pool),
        # a row of weights for each entry that is among its genes
        "gene head": (2.0 * scored * scores, scored * 4 * scores),
        # the linear head once more, and over some markers the profiles of the likeliest labels: a
        # product and two sums
        "pairwise": (2.0 * width * labels + 6.0 * MARKERS * profiles, 4.0 * MARKERS * profiles),
        "search": (2.0 * index.n_cells * width, 4.0 * width),
        # worth, labels below labels, labels below terms, in float64; five streams of labels
        "evidence and decision": (
            2.0 * labels * (2 * labels + _n_terms(index.label_ids)),
            8 * 5 * 4.0 * labels,
        ),
    }


def _n_terms(label_ids: list[str]) -> int:
    from scgp.phenotypes.ontology import Ontology

    return len(Ontology("CL").closure(label_ids))


def measure_tokenizer(adata: ad.AnnData, model: Any) -> tuple[float, float]:
    """Return cells/s of the tokenizer alone on one core, and the nonzeros of a cell."""
    from scgp.cells.counts import choose_counts
    from scgp.cells.genes import match_genes

    counts = choose_counts(adata)
    token_V = match_genes(counts, model.genes).token_of_column
    rows = counts.rows(0, counts.n_cells)
    seconds = _best(lambda: model.tokenizer.tokenize(rows, token_V))
    return rows.shape[0] / seconds, rows.nnz / rows.shape[0]


def cells_like(adata: ad.AnnData, nonzeros: int, n_cells: int) -> ad.AnnData:
    """Return the real cells whose number of nonzeros is nearest, as often as needed."""
    import numpy as np

    distance = np.abs(np.diff(adata.X.indptr) - nonzeros)
    nearest = np.argsort(distance, kind="stable")[: min(n_cells, adata.n_obs // 10)]
    return adata[np.resize(nearest, n_cells)].copy()


def stages_table(stages: list[Stage], machine: Machine, nonzeros: float) -> list[str]:
    """Write the table of stages."""
    lines = [
        f"One thread, one stage after another; {nonzeros:,.0f} nonzeros a cell. One thread does "
        f"{machine.operations / 1e9:,.0f} billion operations a second in float32 "
        f"({machine.operations_bf16 / 1e9:,.0f} in bfloat16) and copies "
        f"{machine.bytes / 1e9:,.1f} GB/s.",
        "",
        "| stage | operations a cell | bytes a cell | floor, us | measured, us | times the floor |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stage in stages:
        least = stage.floor(machine) * 1e6
        took = stage.seconds * 1e6
        lines.append(
            f"| {stage.name} | {stage.operations:,.0f} | {stage.bytes:,.0f} | {least:.1f} | "
            f"{took:.1f} | {took / least:.1f} |"
        )
    least = sum(stage.floor(machine) for stage in stages) * 1e6
    took = sum(stage.seconds for stage in stages) * 1e6
    lines.append(f"| all | | | {least:.1f} | {took:.1f} | {took / least:.1f} |")
    return lines
