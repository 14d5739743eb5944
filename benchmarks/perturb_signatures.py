"""Real drugs in four lineages of blood, the cells they are asked of, and what simple methods say.

Owns the reading of the OP3 signatures and of the control cells. Knows nothing of scgp's verb.

Shape suffixes: B cells, G genes read, V columns of the matrix, L lineages, D drugs.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scipy.sparse as sp

from benchmarks.perturb_targets import TARGETS
from benchmarks.perturb_truth import correlations

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LINEAGES = ("b", "nk", "t", "myeloid")
#: Share of a lineage's cells with a count that a target must have to be perturbed in it, and that
#: a gene must have, as the mean of the lineages, to be read. Chosen before any score was seen.
DETECTED = 0.05
#: A gene moves where its rank is among this share of all ranks at either end.
MOVING = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Signatures:
    """The real signatures, and the control cells.

    Attributes
    ----------
    cells
        By lineage: counts, genes by symbol.
    genes
        Symbols of the genes read (G).
    up
        By drug and lineage: the middle of all ranks less the rank, so that up is positive (G).
    moves
        The same: 1 for genes of the top ranks, -1 for the bottom, 0 (G).
    perturbed
        By drug and lineage: factor of each target that the lineage expresses; no entry without.
    """

    cells: dict[str, ad.AnnData]
    genes: NDArray[np.str_]
    up: dict[str, dict[str, NDArray[np.float64]]]
    moves: dict[str, dict[str, NDArray[np.int64]]]
    perturbed: dict[str, dict[str, dict[str, float]]]


def lineage_of(label: str) -> str | None:
    """Return the lineage of a label of blood; None for what is in none of the four.

    >>> lineage_of("CD8-positive, alpha-beta T cell"), lineage_of("naive B cell")
    ('t', 'b')
    >>> lineage_of("plasmacytoid dendritic cell") is None
    True
    """
    if "plasmacytoid" in label:
        return None
    for word, lineage in (
        ("natural killer", "nk"), ("T cell", "t"), ("B cell", "b"), ("monocyte", "myeloid"),
        ("dendritic cell", "myeloid"),
    ):  # fmt: skip
        if word in label:
            return lineage
    return None


def signatures(data: Path, *, file: str, known: set[str], factor: float) -> Signatures:
    """Read all; `known` are symbols of the model, `factor` that of an activated target."""
    from scgp.model.directory import load_npz

    table = load_npz(data / "resources" / "perturb" / "op3_pbmc_drug_rank_signatures.npz")
    adata = ad.read_h5ad(data / "train" / f"{file}.h5ad")
    of_B = np.array([lineage_of(x) or "" for x in adata.obs["cell_type"].astype(str)])
    cells = {x: adata[of_B == x].copy() for x in LINEAGES}
    share_LV = np.stack([np.diff(cells[x].X.tocsc().indptr) / cells[x].n_obs for x in LINEAGES])
    column = {symbol: i for i, symbol in enumerate(adata.var_names.astype(str))}
    gene = table["gene"].astype(str)
    read = np.array(
        [x in known and x in column and share_LV[:, column[x]].mean() >= DETECTED for x in gene]
    )
    drugs, n_all = table["drug"].astype(str).tolist(), len(gene)
    end = int(MOVING * n_all)
    at = [table["cell_type"].astype(str).tolist().index(x) for x in LINEAGES]
    rank_LDG = table["rank"][at][:, :, read].astype(np.int64)
    moves_LDG = (rank_LDG < end).astype(np.int64) - (rank_LDG >= n_all - end)
    perturbed = {}
    for drug, (sense, symbols) in TARGETS.items():
        factors = {}
        for i, lineage in enumerate(LINEAGES):
            there = [s for s in symbols if s in column and share_LV[i, column[s]] >= DETECTED]
            if there:
                factors[lineage] = dict.fromkeys(there, 0.0 if sense < 0 else factor)
        if factors and drug in drugs:
            perturbed[drug] = factors
    return Signatures(
        cells, gene[read],
        {d: {x: (n_all - 1) / 2 - rank_LDG[i, j] for i, x in enumerate(LINEAGES)}
         for j, d in enumerate(drugs)},
        {d: {x: moves_LDG[i, j] for i, x in enumerate(LINEAGES)} for j, d in enumerate(drugs)},
        perturbed,
    )  # fmt: skip


def others(real: Signatures, drug: str) -> dict[str, NDArray[np.float64]]:
    """Return the mean signature of all other drugs, by lineage (G each)."""
    return {x: np.mean([of[x] for d, of in real.up.items() if d != drug], axis=0) for x in LINEAGES}


def baselines(real: Signatures) -> dict[str, dict[str, dict[str, NDArray[np.float64]]]]:
    """Return what simple methods say, by name, drug and lineage (G each)."""
    found: dict[str, dict[str, dict[str, NDArray[np.float64]]]] = {}

    def tell(name: str, drug: str, lineage: str, said_G: NDArray[np.float64]) -> None:
        found.setdefault(name, {}).setdefault(drug, {})[lineage] = said_G

    for lineage in LINEAGES:
        wanted = sorted({s for of in real.perturbed.values() for s in of.get(lineage, ())})
        level_G, with_target = _with_targets(real.cells[lineage], real.genes, wanted)
        for drug, of in real.perturbed.items():
            if lineage not in of:
                continue
            sign = 1 if TARGETS[drug][0] < 0 else -1  # without it, what goes with it falls
            for name in with_target[wanted[0]]:
                forms = [with_target[s][name] for s in of[lineage]]
                tell(name, drug, lineage, sign * np.mean(forms, axis=0))
            tell("mean signature of the other drugs", drug, lineage, others(real, drug)[lineage])
            apart = [real.up[drug][x] for x in LINEAGES if x != lineage]
            tell("the same drug in the other lineages", drug, lineage, np.mean(apart, axis=0))
            tell("expression in the control cells", drug, lineage, level_G)
            tell("no change", drug, lineage, np.zeros(len(real.genes)))
    return found


def _with_targets(
    adata: ad.AnnData, genes: NDArray[np.str_], targets: list[str]
) -> tuple[NDArray[np.float64], dict[str, dict[str, NDArray[np.float64]]]]:
    """Return mean CP10k of the genes, and minus their correlations with each target."""
    count_BV = sp.csr_matrix(adata.X).astype(np.float32)
    total_B1 = np.asarray(count_BV.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    names = [*genes.tolist(), *[t for t in targets if t not in set(genes.tolist())]]
    column = adata.var_names.get_indexer(names)
    cp10k_BG = (1e4 * count_BV[:, column].toarray() / total_B1).astype(np.float32)
    cofactor_BC = np.column_stack([np.ones(len(total_B1)), np.log(total_B1)])
    value_BG = np.log1p(cp10k_BG)
    found = {}
    for target in targets:
        forms = correlations(value_BG, names.index(target), cofactor_BC)
        found[target] = {
            name.replace(" and replicate", ""): x[: len(genes)] for name, x in forms.items()
        }
    return cp10k_BG[:, : len(genes)].mean(axis=0).astype(np.float64), found
