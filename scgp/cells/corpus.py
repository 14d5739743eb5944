"""The training corpus: cells over one vocabulary, with codes for what they are.

Shape suffixes: N cells, G genes, S sources.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.dataset import CellDataset, Source
from scgp.cells.vocabulary import GeneVocabulary

#: ``obs`` column that tells which profile a drawn cell was drawn from (`draw_cells` writes it).
PROFILE = "profile"

#: Donor names, folded, that many studies give to donors of their own: a number or a letter, alone
#: or after a word for donor. "1.0" is how a column of numbers with gaps is read.
_GENERIC_DONOR = re.compile(
    r"(donor|patient|sample|subject|individual)?[\s_.#-]*([dpshn]?[\s_.#-]*\d+(\.0)?|[a-z])"
)
_NO_DONOR = frozenset(["", "unknown", "na", "nan", "none"])


@dataclass(frozen=True)
class Corpus:
    """Training cells over the genes of one vocabulary.

    Attributes
    ----------
    count_NG
        Counts, CSR.
    label_N, tissue_N, disease_N
        What each cell is called, as the sources say; "" where they do not.
    study_N, donor_N
        Integer codes. Each profile is a study of its own. A donor may stand in several studies, if
        its name is specific ("Zheng_donorA"): such studies are not independent. A donor that is
        unknown or has a generic name ("1", "donor 2", "D3", "patient_4", "A") stands in one only:
        the same name in another study is another donor.
    drawn_N
        Whether the cell was drawn from a mean profile.
    studies
        Names of the studies.
    source_N, measured_SG
        Source of each cell (-1 for drawn cells), and the gene sets of the sources: what a platform
        measures.
    """

    count_NG: sp.csr_matrix
    label_N: np.ndarray
    tissue_N: np.ndarray
    disease_N: np.ndarray
    study_N: np.ndarray
    donor_N: np.ndarray
    drawn_N: np.ndarray
    source_N: np.ndarray
    studies: tuple[str, ...]
    measured_SG: np.ndarray

    @property
    def n_cells(self) -> int:
        """Number of cells, unlabelled and drawn ones included."""
        return int(self.count_NG.shape[0])

    def part(self, rows: np.ndarray) -> "Corpus":
        """Return the corpus of some cells."""
        names = [f.name for f in fields(self) if f.name.endswith(("_N", "_NG"))]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def read_corpus(
    data: Source | Sequence[Source],
    genes: GeneVocabulary,
    *,
    label_key: str,
    study_key: str | None,
    donor_key: str | None,
    tissue_key: str | None = None,
    disease_key: str | None = None,
    unlabelled: Source | Sequence[Source] = (),
    drawn: Sequence[ad.AnnData] = (),
    layer: str | None = None,
    use_raw: bool | None = None,
) -> Corpus:
    """Read labelled, unlabelled and drawn cells into memory.

    Raises
    ------
    MissingColumnError
        A source of labelled cells lacks a column that was named; drawn cells may lack donor and
        disease, and need `PROFILE`.
    CountsError, GeneError
        A source holds no counts, or no gene of the vocabulary.
    """
    keys = {"label_key": label_key, "study_key": study_key, "donor_key": donor_key}
    real = CellDataset(data, genes, **keys, layer=layer, use_raw=use_raw)
    parts = [_read(real, tissue_key, disease_key)]
    if isinstance(unlabelled, ad.AnnData | Path | str) or len(unlabelled):
        parts.append(_read(CellDataset(unlabelled, genes, layer=layer, use_raw=use_raw)))
    n_real = len(parts)
    if len(drawn):
        cells = CellDataset(list(drawn), genes, label_key=label_key, study_key=PROFILE)
        parts.append(_read(cells, tissue_key))
    columns = pd.concat([table for table, _, _ in parts], ignore_index=True)
    is_drawn = np.repeat(np.arange(len(parts)) >= n_real, [len(table) for table, _, _ in parts])
    first_P = np.cumsum([0, *(len(measured) for _, _, measured in parts)])
    sources = [
        table["source"] + first for (table, _, _), first in zip(parts, first_P[:-1], strict=True)
    ]
    study_N, studies = pd.factorize(columns["study"])
    return Corpus(
        count_NG=sp.vstack([counts for _, counts, _ in parts], format="csr"),
        label_N=columns["label"].to_numpy(dtype=object),
        tissue_N=columns["tissue"].to_numpy(dtype=object),
        disease_N=columns["disease"].to_numpy(dtype=object),
        study_N=study_N,
        donor_N=pd.factorize(_donor_names(columns))[0],
        drawn_N=is_drawn,
        source_N=np.where(is_drawn, -1, pd.concat(sources).to_numpy()),
        studies=tuple(map(str, studies)),
        measured_SG=np.concatenate([measured for _, _, measured in parts[:n_real]]),
    )


def _read(
    cells: CellDataset, tissue_key: str | None = None, disease_key: str | None = None
) -> tuple[pd.DataFrame, sp.csr_matrix, np.ndarray]:
    """Return the columns, the counts and the gene sets of a data set, and close it."""
    nothing = np.full(cells.n_cells, "", dtype=object)
    table = pd.DataFrame(
        {
            "label": cells.label,
            "tissue": cells.column(tissue_key) if tissue_key else nothing,
            "disease": cells.column(disease_key) if disease_key else nothing,
            "study": cells.study,
            "donor": cells.donor,
            "source": np.repeat(np.arange(len(cells.n_per_source)), cells.n_per_source),
        }
    )
    counts = cells.in_memory()
    cells.close()
    return table, counts, cells.measured_SG


def _donor_names(columns: pd.DataFrame) -> np.ndarray:
    """Return names that are one donor's; one that is unknown or generic goes with its study."""
    donor = columns["donor"].astype(str)
    codes, names = pd.factorize(donor)  # names are few, cells are many
    folded = [name.strip().casefold() for name in names]
    nameless = np.array([name in _NO_DONOR for name in folded], dtype=bool)[codes]
    generic = np.array([bool(_GENERIC_DONOR.fullmatch(name)) for name in folded], dtype=bool)[codes]
    study = columns["study"] + "\t"
    return np.select([nameless, generic], [study, study + donor], donor)
