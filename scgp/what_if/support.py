"""What stands behind a prediction: which known label and tissue are near, and how near.

Owns the table that says so and the warning for free text that nothing known is like. Must not know
what is predicted.

Shape suffixes: D descriptions, U known labels, P groups.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scgp.errors import warn_user
from scgp.phenotypes.ontology import Ontology
from scgp.reference.profiles import Profiles

#: Likeness to every known label below which free text is said to be like none. Synonyms of the
#: known labels of 0.12.0, given as free text (401 of more than four letters; quartiles of the
#: likeness .23, .29, .33): the nearest label is the one meant for .24 of the 132 below it, for .71
#: of the others.
UNLIKE = 0.25
#: Texts that a warning names.
_NAMED = 5


def support(
    texts: Sequence[str],
    term_ids: Sequence[str],
    tissue_ids: Sequence[str],
    profiles: Profiles,
    labels: Sequence[str],
    *,
    share_DU: np.ndarray,
    tissue_DP: np.ndarray,
) -> pd.DataFrame:
    """Return what is said of each description, named by its text and tissue.

    Parameters
    ----------
    texts, term_ids, tissue_ids
        Each description; "" for free text, and for no tissue.
    labels, share_DU
        Known labels, and the likeness to each, 1 for the label itself.
    tissue_DP
        Likeness of tissues to those of the groups.
    """
    cell_ontology, uberon = Ontology("CL"), Ontology("UBERON")
    place = {term: u for u, term in enumerate(labels)}
    itself = [place.get(term, -1) for term in term_ids]
    nearest_D = np.where(np.array(itself) >= 0, itself, share_DU.argmax(axis=1))
    nearest = [labels[u] for u in nearest_D]
    near_tissue, tissue_share = _nearest_tissues(nearest, tissue_ids, tissue_DP, profiles)
    tissues = [uberon.label(term) if term else "" for term in tissue_ids]
    return pd.DataFrame(
        {
            "text": texts,
            "ontology_term_id": term_ids,
            "tissue": tissues,
            "tissue_ontology_term_id": tissue_ids,
            "n_profiles": _n_profiles(term_ids, tissue_ids, profiles),
            "nearest_label": [cell_ontology.label(term) for term in nearest],
            "nearest_ontology_term_id": nearest,
            "nearest_likeness": share_DU[np.arange(len(texts)), nearest_D].astype(np.float32),
            "nearest_tissue": [uberon.label(term) if term else "" for term in near_tissue],
            "nearest_tissue_ontology_term_id": near_tissue,
            "nearest_tissue_likeness": tissue_share,
        },
        index=pd.Index(_row_names(texts, tissues), dtype=object),
    )


def warn_unlike(said: pd.DataFrame) -> None:
    """Warn of free text that is like no known label.

    Parameters
    ----------
    said
        As `support` returns it.
    """
    far = said[(said["ontology_term_id"] == "") & (said["nearest_likeness"] < UNLIKE)]
    far = far.drop_duplicates("text")
    if far.empty:
        return
    shown = [
        f"{row.text!r} (nearest {row.nearest_label!r}, {row.nearest_likeness:.2f})"
        for row in far.head(_NAMED).itertuples()
    ]
    more = f"; and {len(far) - _NAMED} more" if len(far) > _NAMED else ""
    warn_user(
        f"free text that is like no known label (likeness below {UNLIKE}; free text has at most "
        f"0.5), so that little of the prediction is its own: {'; '.join(shown)}{more}"
    )


def _n_profiles(
    term_ids: Sequence[str], tissue_ids: Sequence[str], profiles: Profiles
) -> np.ndarray:
    """Return how many groups are of the very label and tissue, or of the label where no tissue."""
    pairs = Counter(zip(profiles.label_ids, profiles.tissue_ids, strict=True))
    anywhere = Counter(profiles.label_ids)
    asked = zip(term_ids, tissue_ids, strict=True)
    counts = [pairs[term, tissue] if tissue else anywhere[term] for term, tissue in asked]
    return np.array(counts, np.int32)


def _nearest_tissues(
    nearest: Sequence[str], tissue_ids: Sequence[str], tissue_DP: np.ndarray, profiles: Profiles
) -> tuple[list[str], np.ndarray]:
    """Return the tissue that is most alike among those the nearest label is known from."""
    label_P, known_P = np.array(profiles.label_ids), np.array(profiles.tissue_ids)
    found, share_D = [], np.full(len(nearest), np.nan, np.float32)
    for d, (label, asked) in enumerate(zip(nearest, tissue_ids, strict=True)):
        rows = np.flatnonzero((label_P == label) & (known_P != ""))
        if not asked or not len(rows):
            found.append("")
            continue
        best = rows[tissue_DP[d, rows].argmax()]
        found.append(str(known_P[best]))
        share_D[d] = tissue_DP[d, best]
    return found, share_D


def _row_names(texts: Sequence[str], tissues: Sequence[str]) -> list[str]:
    """Return names of rows that are unique: a text given twice has two equal rows."""
    names = [f"{x} ({t})" if t else x for x, t in zip(texts, tissues, strict=True)]
    repeats: Counter[str] = Counter()
    for d, name in enumerate(names):
        repeats[name] += 1
        names[d] = name if repeats[name] == 1 else f"{name} #{repeats[name]}"
    return names
