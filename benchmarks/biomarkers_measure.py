"""How far two lists of marker genes are known, and come back in other studies.

Owns the chosen lists, the random genes that are expressed alike, and the counting. Knows tables of
`scgp.biomarkers` with all genes; neither cells nor models.

Shapes: R chosen genes, D draws, G genes of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pandas as pd
    from numpy.typing import NDArray

#: The lists: by removal, by Wilcoxon's test, found only by one of the two, and by both.
LISTS = ("removal", "wilcoxon", "removal only", "wilcoxon only", "both")
TOPS = (10, 20, 50)
#: Genes nearest in detection rate, of which one is drawn for each chosen gene; and draws.
ALIKE, DRAWS = 100, 1000


def chosen(table: pd.DataFrame, top: int) -> dict[str, list[str]]:
    """Return the genes of each list: the first `top` of a ranking, with a positive sign.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"gene": ["A", "B", "C"], "effect": [2.0, 1.0, -1.0],
    ...     "removal_rank": [1, 2, 3], "wilcoxon_score": [5.0, 1.0, 9.0],
    ...     "wilcoxon_rank": [2, 3, 1]})
    >>> found = chosen(table, 2)
    >>> found["removal"], found["wilcoxon only"], found["both"]
    (['A', 'B'], ['C'], ['A'])
    """
    first = {}
    for name, rank, value in (
        ("removal", "removal_rank", "effect"),
        ("wilcoxon", "wilcoxon_rank", "wilcoxon_score"),
    ):
        ordered = table.sort_values(rank).head(top)
        first[name] = ordered.loc[ordered[value] > 0, "gene"].tolist()
    one, other = first["removal"], first["wilcoxon"]
    return first | {
        "removal only": [gene for gene in one if gene not in other],
        "wilcoxon only": [gene for gene in other if gene not in one],
        "both": [gene for gene in one if gene in other],
    }


def drawn_shares(
    table: pd.DataFrame, genes: Collection[str], known: Collection[str], *, seed: int
) -> NDArray[np.float64]:
    """Return the share of known markers in each of `DRAWS` draws of genes detected alike (D).

    For each chosen gene, one of the `ALIKE` genes whose detection rate in the phenotype is nearest.
    """
    detected_G = table["detected"].to_numpy()
    known_G = table["gene"].isin(known).to_numpy()
    rng = np.random.default_rng(seed)
    order_G = np.argsort(detected_G, kind="stable")
    place = np.flatnonzero(table["gene"].to_numpy()[order_G][:, None] == np.array([*genes]))
    place_R = place // max(len(genes), 1)
    low_R = np.clip(place_R - ALIKE // 2, 0, max(len(order_G) - ALIKE, 0))
    width = min(ALIKE, len(order_G))
    pick_DR = low_R + rng.integers(0, width, size=(DRAWS, len(low_R)))
    share_D: NDArray[np.float64] = known_G[order_G][pick_DR].mean(axis=1)
    return share_D


def known_share(
    table: pd.DataFrame, known: Collection[str], *, seed: int
) -> list[dict[str, float | str]]:
    """Count the known markers in each list, beside random genes detected alike."""
    rows: list[dict[str, float | str]] = []
    for top in TOPS:
        for name, genes in chosen(table, top).items():
            if not genes:
                continue
            share_D = drawn_shares(table, genes, known, seed=seed)
            share = float(np.mean([gene in known for gene in genes]))
            low, high = np.quantile(share_D, [0.025, 0.975])
            rows.append(
                {
                    "list": name, "top": top, "genes": len(genes), "known": share,
                    "random": float(share_D.mean()), "low": float(low), "high": float(high),
                    "above": float(share > high),
                }
            )  # fmt: skip
    return rows


def replicated(
    table: pd.DataFrame, other: pd.DataFrame, *, prefix: str = ""
) -> list[dict[str, float | str]]:
    """Count the genes of each list that other studies find again.

    Of the genes that the others measure: ``again``, the share among the first as many by the same
    ranking; ``positive``, the share whose effect, ``higher``, whose z score is above 0.
    """
    held = other.set_index("gene")
    rows: list[dict[str, float | str]] = []
    for top in TOPS:
        there = chosen(other, top)
        for name, genes in chosen(table, top).items():
            found = [gene for gene in genes if gene in held.index]
            if not found:
                continue
            by = there["wilcoxon" if name.startswith("wilcoxon") else "removal"]
            part = held.loc[found]
            rows.append(
                {
                    "list": name, "top": top,
                    f"{prefix}again": float(np.mean([gene in by for gene in found])),
                    f"{prefix}positive": float((part["effect"] > 0).mean()),
                    f"{prefix}higher": float((part["wilcoxon_score"] > 0).mean()),
                }
            )  # fmt: skip
    return rows


def markers_below(
    term: str, markers: Mapping[str, list[str]], below: Collection[str]
) -> frozenset[str]:
    """Return the known markers of a term and of all terms below it."""
    return frozenset(gene for each in {term, *below} for gene in markers.get(each, ()))
