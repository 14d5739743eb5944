"""What is predicted of genes against what is measured: scores of one seed, and the table.

Owns what is scored and how it is shown. Knows neither networks nor files.

Shapes: N cells, G genes, K cell types of a study, S seeds, U units, R resamples.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.partners_cells import ALONE
from benchmarks.partners_measure import partial_spearman
from benchmarks.partners_seed import LINEAR, SCGP, SHIPPED, UNTRAINED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmarks.partners_cells import Context, Matrix
    from benchmarks.partners_seed import Key

    Row = dict[str, dict[str, float]]
    Scores = dict[str, dict[str, dict[str, float]]]

#: Bands of detection (share of a type's cells with a count) of which ratios are shown.
BANDS = ((0.03, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 1.01))
#: Genes of which ranks over the cells of a type are shown: of others most cells have no count, or
#: all have one.
RANKED = (0.1, 0.7)
#: A gene is compared between types if it is detected in so many cells of one of them.
IN_SOME_TYPE = 0.1
MEASURES = ("depth", "value", "value_at_equal_depth", "types", "highest")
MEASURED, HALVES, TRAINING = "measured", "measured, other half", "training cells of the type"
METHODS = (SCGP, SHIPPED, UNTRAINED, LINEAR, MEASURED, HALVES, TRAINING)
INTERVAL, N_RESAMPLES = (2.5, 97.5), 1000


NOTES = """\
Networks are those of `partners.md`: trained from nothing without Zheng 2017, 10x PBMC3k and PBMC6k
and GeACT (800 steps of the pooled view, 2,000 of the transformer), one for each seed; each has its
own draw of at most 200 cells of a context (a cell type in a study) and its own untrained network.
*A network that saw these studies* is the default checkpoint. Genes: the 1,500 detected most in a
context, in 3 % of its cells or more. `predicted` is read with the gene's own count hidden.

Ratio: mean over a context's cells of exp(`predicted`) over that of the measured CP10k; median over
genes of a band of detection (share of the cells with a count), mean over contexts. The rest are
rank correlations (Spearman) over the cells of one context, mean over the genes detected in 10 to
70 % of them: of `predicted` with the cell's counts; with the gene's own CP10k; with that where the
ranks of the cell's counts, and their squares, are taken out of both. *Measured* is the gene's own
log1p(CP10k). *Linear reading*: 50 principal components of training cells, the gene's value hidden.

Between types: for each study, log1p of the mean CP10k of every gene (in 10 % of the cells of one of
the types or more) less its mean over the study's types, predicted against measured: Pearson's r
over genes and types, and the share of genes whose highest type is the measured one. *Measured,
other half*: even cells against odd ones, of 100 each. *Training cells of the type*: their measured
means. T cells of Zheng and PBMC3k, which are there by kind, have no part in it. Intervals (95 %):
bootstrap over contexts, or studies ({n_studies}), of the means over seeds; `sd`: of seeds.
"""


def within(
    rate_NG: Matrix, value_NG: Matrix, total_N: NDArray[np.float64], detected_G: NDArray[np.float64]
) -> dict[str, float]:
    """Return the ranks over the cells of a context, mean over the genes of `RANKED`."""
    ranked = np.flatnonzero((detected_G >= RANKED[0]) & (detected_G < RANKED[1]))
    found = defaultdict(list)
    for g in ranked:
        rate_N, value_N = rate_NG[:, g], value_NG[:, g]
        if np.ptp(rate_N) == 0 or np.ptp(value_N) == 0:
            continue
        found["depth"].append(spearmanr(rate_N, total_N).statistic)
        found["value"].append(spearmanr(rate_N, value_N).statistic)
        equal = partial_spearman(rate_N, value_N, total_N[:, None]).value()
        found["value_at_equal_depth"].append(equal)
    return {name: float(np.mean(x)) for name, x in found.items()}


def ratios(rate_NG: NDArray[np.float32], value_NG: NDArray[np.float32],
           detected_G: NDArray[np.float64]) -> dict[str, float]:  # fmt: skip
    """Return predicted over measured mean CP10k by band of detection, median over genes."""
    ratio_G = np.exp(rate_NG.astype(float)).mean(axis=0)
    ratio_G /= np.maximum(np.expm1(value_NG.astype(float)).mean(axis=0), 1e-12)
    found = {}
    for low, high in BANDS:
        mine = (detected_G >= low) & (detected_G < high)
        if mine.sum() >= 10:
            found[f"ratio {low:g}"] = float(np.median(ratio_G[mine]))
    return found


def between(said_KG: NDArray[np.float64], measured_KG: NDArray[np.float64]) -> dict[str, float]:
    """Return how well mean CP10k of types (K x G) agree with the measured ones."""
    x_KG, y_KG = (np.log1p(a) for a in (said_KG, measured_KG))
    x_KG, y_KG = (a - a.mean(axis=0) for a in (x_KG, y_KG))
    scale = np.sqrt((x_KG**2).sum() * (y_KG**2).sum())
    return {
        "types": float((x_KG * y_KG).sum() / scale) if scale > 0 else float("nan"),
        "highest": float((x_KG.argmax(axis=0) == y_KG.argmax(axis=0)).mean()),
    }


def scores_of(
    contexts: Mapping[Key, Context], said: Mapping[str, Mapping[Key, Matrix]],
    training: Mapping[str, Context],
) -> Scores:  # fmt: skip
    """Score what is said with one seed: method -> unit (context or study) -> measure -> score.

    ``said`` has by method the predicted log CP10k of the contexts' genes; all contexts have the
    same genes. ``training`` has training cells of types.
    """
    found: Scores = defaultdict(lambda: defaultdict(dict))
    for key, context in contexts.items():
        unit, total_N = ", ".join(key), np.exp(context.design_NC[:, 1])
        for method, read in said.items():
            ranks = within(read[key], context.value_NG, total_N, context.detected_G)
            found[method][unit] |= ranks
            if method != LINEAR:
                found[method][unit] |= ratios(read[key], context.value_NG, context.detected_G)
        own = within(context.value_NG, context.value_NG, total_N, context.detected_G)
        found[MEASURED][unit]["depth"] = own["depth"]
    for study in dict.fromkeys(key[0] for key in contexts):
        keys = [key for key in contexts if key[0] == study and key in ALONE]
        there_G = np.max([contexts[key].detected_G for key in keys], axis=0) >= IN_SOME_TYPE
        level = {
            method: [np.exp(read[key].astype(float)).mean(axis=0) for key in keys]
            for method, read in said.items()
            if method != LINEAR
        }
        if all(key[1] in training for key in keys):
            level[TRAINING] = [_mean(training[key[1]].value_NG) for key in keys]
        measured_KG = np.array([_mean(contexts[key].value_NG) for key in keys])
        for method, level_KG in level.items():
            said_KG = np.array(level_KG)
            found[method][study] |= between(said_KG[:, there_G], measured_KG[:, there_G])
        even, odd = (
            np.array([_mean(contexts[key].value_NG[n::2]) for key in keys]) for n in (0, 1)
        )
        found[HALVES][study] |= between(even[:, there_G], odd[:, there_G])
    return found


def _mean(value_NG: Matrix) -> NDArray[np.float64]:
    return np.asarray(np.expm1(value_NG.astype(float)).mean(axis=0))


def summary(seeds: list[Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean, interval and spread of every method and measure."""
    rng = np.random.default_rng(0)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for method in METHODS:
        for measure in (*(f"ratio {low:g}" for low, _ in BANDS), *MEASURES):
            mine = [{u: x for u, x in s.get(method, {}).items() if measure in x} for s in seeds]
            units = sorted(set().union(*mine))
            there = [score for score in mine if score]
            if not units:
                continue
            score_SU = np.array(
                [[s.get(unit, {}).get(measure, np.nan) for unit in units] for s in there]
            )
            mean_U = np.nanmean(score_SU, axis=0)
            chosen_RU = rng.integers(len(units), size=(N_RESAMPLES, len(units)))
            low, high = np.percentile(mean_U[chosen_RU].mean(axis=1), INTERVAL)
            table.setdefault(method, {})[measure] = {
                "mean": float(mean_U.mean()), "low": float(low), "high": float(high),
                "sd": float(np.nanmean(score_SU, axis=1).std()), "units": len(units),
                "seeds": len(there),
            }  # fmt: skip
    return table


def report(found: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    table, n_seeds = found["scores"], len(found["seeds"])
    lines = [f"Made by `{found['command']}`; {n_seeds} trained networks.", ""]
    n_studies = max(row["types"]["units"] for row in table.values() if "types" in row)
    lines += [NOTES.format(n_studies=n_studies), "## Predicted over measured level", ""]
    names = [f"ratio {low:g}" for low, _ in BANDS]
    lines += [
        "| detected in | " + " | ".join(f"{low:.0%} to {min(high, 1):.0%}" for low, high in BANDS)
    ]
    lines[-1] += " |"
    lines += ["| --- |" + " ---: |" * len(BANDS)]
    lines += _rows(table, names, digits=1)
    heads = {
        "Over the cells of a type": (
            "with the cell's counts", "with its own value", "at equal depth",
        ),
        "Between types": ("r", "share of genes whose highest type is right"),
    }  # fmt: skip
    for (title, columns), shown in zip(heads.items(), (MEASURES[:3], MEASURES[3:]), strict=True):
        lines += ["", f"## {title}", "", "| | " + " | ".join(columns) + " |"]
        lines += ["| --- |" + " ---: |" * len(columns), *_rows(table, list(shown), digits=2)]
    return "\n".join(lines) + "\n"


def _rows(
    table: dict[str, dict[str, dict[str, float]]], names: list[str], digits: int
) -> list[str]:
    rows = []
    for method, row in table.items():
        if not any(name in row for name in names):
            continue
        cells = []
        for name in names:
            if name not in row:
                cells.append("-")
                continue
            x = row[name]
            text = f"{x['mean']:.{digits}f} [{x['low']:.{digits}f}, {x['high']:.{digits}f}]"
            cells.append(text + (f" sd {x['sd']:.2f}" if x["seeds"] > 1 else ""))
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return rows
