"""The words and tables of the zero-shot benchmark; measures nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.zeroshot_measure import ANNOTATE, OURS
from scgp.phenotypes.ontology import Ontology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.zeroshot_folds import TermFold

    Found = Mapping[int, Mapping[str, Any]]

HELD_OUT = ("accuracy", "recall", "f1", "within_1", "within_2", "right")
CORPUS = ("seen", "unseen", "harmonic", "f1", "within_1", "within_2", "right")
WORDS = {
    "accuracy": "accuracy (cells)",
    "recall": "accuracy (terms)",
    "f1": "macro-F1",
    "within_1": "within 1",
    "within_2": "within 2",
    "right": "term or below",
    "seen": "seen",
    "unseen": "unseen",
    "harmonic": "harmonic mean",
}

INTRODUCTION = """# Naming types that were never shown, by what is known of them

Made by `{command}`. Seeds: {seeds}; {folds} folds; {network}.

Terms of the Cell Ontology with at least 30 cells are held out in turn, with every term below them:
no cell of these trains, real or drawn, and none is in the index. Terms on one line of the ontology
are in one fold; related ones (kinds of T cell, of monocyte) are spread, so a held-out term has
relatives that were seen. At most 150 cells of a type and study train. Some cells train in no fold
({kept}): whole donors where a group of studies has three known ones, else a fifth of the cells of
each study and type. At most 150 of these of a type and study are asked, and where the term is held
out 150 of all its cells too. So seen terms are asked in studies that the model knows, as unseen
ones are; this is no test of new studies.

Cells whose authors wrote a broader seen term ("T cell") stay in training, and may be of a held-out
type: the name is withheld, not every such cell. What a term's vector stands for is its label and
definition, and its ancestors' by half. Scores are means over terms ("accuracy (cells)" is not):
"within 1" and "within 2" are steps over the nearest common ancestor; "term or below" is the rule of
the main benchmark. [..] is the lead of the description over the method with the 95 % interval of a
paired bootstrap over terms and their cells (first seed); with several seeds, mean ± standard
deviation.

"Description": gene weights predicted from those of seen terms by likeness of text, ancestors and
marker genes, plus the term's own known markers. `annotate(labels=)` uses it with a penalty of its
own and says "unknown" where it is not sure; `score_text` adds the cosine. "Text" is the cosine
between a cell's type vector and the projected text of the term. The constants of the description
were chosen by somebody who saw these folds (docs/log.md), the penalties in the table on the other
folds.

Markers are PanglaoDB's and CellMarker's for the terms that these name (`scanpy.tl.score_genes`,
z-scored over the cells of a file); the untrained fusion is the mean of the MiniLM vectors of RefSeq
gene summaries, weighted by log-normalised expression, against the vectors of the terms. Markers and
"centred" see the other cells of a file, "centred" the texts of all terms too; none sees a label.
"Z-scored by file" gives the cosines of scgp that advantage of the markers. Penalty and gates know
which terms trained; their values are chosen on the other folds (harmonic mean).
"Permuted when asked" deals the texts to other terms for a trained model, which is chance by
construction; only a model *trained* with permuted texts (`--shuffled-training`) shows what
structure without meaning gives.
"""


def write_report(
    results: Path, found: Found, folds: Sequence[TermFold], facts: Mapping[str, Any]
) -> str:
    """Write ``zeroshot.md`` and ``zeroshot.json``; return the former."""
    kept = ", ".join(f"{n} {how}" for how, n in sorted(facts["kept_by"].items()))
    text = "\n".join(
        [
            INTRODUCTION.format(
                command=facts["command"],
                seeds=", ".join(map(str, found)),
                folds=len(folds),
                network="pooled view and transformer" if facts["tokens"] else "pooled view alone",
                kept=kept,
            ),
            *_held_out(found, "held_out", "Among the held-out terms of the fold"),
            *_held_out(found, "held_out_with_markers", "The same, terms with markers alone"),
            *_corpus(found, "corpus", "Among all terms of the corpus"),
            *_corpus(found, "corpus_and_drawn", "Among these and the terms of drawn cells"),
            *_per_term(found, folds),
            *_left_out(facts["why_not"]),
        ]
    )
    results.mkdir(parents=True, exist_ok=True)
    (results / "zeroshot.md").write_text(text + "\n", encoding="utf-8")
    plain = {
        **facts,
        "folds": {fold.name: [list(fold.asked), sorted(fold.closure)] for fold in folds},
        "seeds": {str(seed): one for seed, one in found.items()},
    }
    (results / "zeroshot.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    return text + "\n"


def _mean(found: Found, *path: str) -> float:
    """Return a number by its path, as a mean over seeds."""
    values = []
    for one in found.values():
        at: Any = one
        for key in path:
            at = at[key]
        values.append(at)
    return float(np.mean(values))


def _score(found: Found, *path: str) -> str:
    """Return a number as it stands in the tables: with its spread over seeds, if there are more."""
    mean = f"{_mean(found, *path):.3f}"
    if len(found) < 2:
        return mean
    each = [_mean({seed: one}, *path) for seed, one in found.items()]
    return f"{mean} ± {np.std(each, ddof=1):.3f}"


def _row(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _lead(one: Mapping[str, Any], name: str, measure: str) -> str:
    if name == OURS:
        return ""
    mean, low, high = one["lead"][name][measure]
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _held_out(found: Found, key: str, title: str) -> list[str]:
    one = next(iter(found.values()))[key]
    heads = ["method", *(WORDS[m] for m in HELD_OUT), "lead, accuracy (terms)", "lead, macro-F1"]
    lines = [
        f"## {title}",
        "",
        f"{one['terms']} terms, {one['cells']} cells; chance {one['chance']:.3f}.",
        "",
        _row(heads),
        _row(["---", *["--:"] * (len(heads) - 1)]),
    ]
    for name in one["scores"]:
        scores = [_score(found, key, "scores", name, m) for m in HELD_OUT]
        lines.append(_row([name, *scores, _lead(one, name, "recall"), _lead(one, name, "f1")]))
    if ANNOTATE in one["scores"]:
        unknown = _mean(found, key, "scores", ANNOTATE, "unknown")
        lines += ["", f"`{ANNOTATE}` calls {unknown:.0%} of the cells unknown."]
    return [*lines, ""]


def _corpus(found: Found, key: str, title: str) -> list[str]:
    one = next(iter(found.values()))[key]
    heads = ["method", *(WORDS[m] for m in CORPUS), "median rank", "lead, unseen"]
    lines = [
        f"## {title}",
        "",
        f"{one['candidates']} candidates; {one['cells']['unseen']} cells of held-out terms, "
        f"{one['cells']['seen']} of seen ones (each asked by every fold that has seen its term). "
        "All columns after the harmonic mean are of held-out terms.",
        "",
        _row(heads),
        _row(["---", *["--:"] * (len(heads) - 1)]),
    ]
    for name in one["scores"]:
        scores = [_score(found, key, "scores", name, m) for m in CORPUS]
        ranked = name in one["median_rank"]
        rank = f"{_mean(found, key, 'median_rank', name):.1f}" if ranked else ""
        lines.append(_row([name, *scores, rank, _lead(one, name, "recall")]))
    chosen = [f"{name}: {', '.join(f'{v:.2f}' for v in x)}" for name, x in one["chosen"].items()]
    lines += ["", "Chosen for each fold on the other folds: " + "; ".join(chosen) + "."]
    return [*lines, ""]


def _per_term(found: Found, folds: Sequence[TermFold]) -> list[str]:
    """Return the recall of each term among the held-out ones of its fold, first seed."""
    ontology = Ontology("CL")
    per_term = next(iter(found.values()))["held_out"]["per_term"]
    names = [n for n in next(iter(per_term.values())) if n not in ("cells", "candidates")]
    heads = ["fold", "term", "cells", *names]
    lines = ["## Each term among those of its fold", "", _row(heads)]
    lines.append(_row(["---", "---", *["--:"] * (len(heads) - 2)]))
    for f, fold in enumerate(folds):
        for term in sorted(fold.asked, key=ontology.label):
            if term in per_term:
                row = per_term[term]
                shares = [f"{row[name]:.2f}" for name in names]
                lines.append(
                    _row([str(f + 1), ontology.label(term), f"{row['cells']:.0f}", *shares])
                )
    return [*lines, ""]


def _left_out(why_not: Mapping[str, str]) -> list[str]:
    ontology = Ontology("CL")
    lines = [
        "## Terms that are not held out by themselves",
        "",
        "Broad ones: holding them out takes more than 15 % of the labelled cells away. Small ones: "
        "fewer than 30 cells (they go with a held-out term above them, but are not asked).",
        "",
    ]
    named = sorted((ontology.label(term), why) for term, why in why_not.items())
    return [*lines, *(f"- {name}: {why}" for name, why in named), ""]
