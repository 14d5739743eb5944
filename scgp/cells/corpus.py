"""The training corpus: cells over one vocabulary, with codes for what they are.

Shape suffixes: N cells, G genes, S sources.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.dataset import BLOCK_ROWS, CellDataset, Source, list_of
from scgp.cells.draw import measured_genes
from scgp.cells.gene_sets import GeneSets
from scgp.cells.stored import StoredCounts
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
        Counts, CSR; or counts that stay on disk and give a CSR matrix for the rows asked for.
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
    drawn_set_N, measured_DG
        Gene set of each drawn cell (-1 for real ones), and these sets: what the studies behind the
        mean profiles measured. None: not known.
    tile_N
        Tile of each cell, rising: cells that are stored together. Training draws the cells of a
        round of steps from some tiles; where it is None, each from anywhere.
    """

    count_NG: sp.csr_matrix | StoredCounts
    label_N: np.ndarray
    tissue_N: np.ndarray
    disease_N: np.ndarray
    study_N: np.ndarray
    donor_N: np.ndarray
    drawn_N: np.ndarray
    source_N: np.ndarray
    studies: tuple[str, ...]
    measured_SG: np.ndarray
    tile_N: np.ndarray | None = None
    drawn_set_N: np.ndarray | None = None
    measured_DG: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells, unlabelled and drawn ones included."""
        return int(self.count_NG.shape[0])

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
        """Read cells in the order given, all by default; yield rows and their float32 counts.

        `BLOCK_ROWS` rows at most at a time: never more in memory.
        """
        row_N = np.arange(self.n_cells) if rows is None else rows
        for start in range(0, len(row_N), BLOCK_ROWS):
            row_B = row_N[start : start + BLOCK_ROWS]
            yield row_B, self.count_NG[row_B].astype(np.float32)

    def part(self, rows: np.ndarray) -> "Corpus":
        """Return the corpus of some cells; stored counts stay where they are."""
        taken: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name.endswith("_N")):
            array = getattr(self, name)
            taken[name] = None if array is None else array[rows]
        stored = isinstance(self.count_NG, StoredCounts)
        counts = self.count_NG.part(rows) if stored else self.count_NG[rows]
        return replace(self, count_NG=counts, **taken)

    def gene_sets(self, rows: np.ndarray) -> GeneSets:
        """Return which genes the sources of some cells measure: all, where that is unknown."""
        set_B = self.source_N[rows]
        if self.drawn_set_N is None or self.measured_DG is None:
            known_DG, drawn_B = np.ones((1, self.measured_SG.shape[1]), bool), np.zeros_like(set_B)
        else:
            known_DG, drawn_B = self.measured_DG, self.drawn_set_N[rows]
        set_B = np.where(self.drawn_N[rows], len(self.measured_SG) + drawn_B, set_B)
        return GeneSets(set_B, np.concatenate([self.measured_SG, known_DG]))

    def count_arrays(self) -> list[np.ndarray]:
        """Return what tells these counts from others: the arrays, or where they are stored."""
        if isinstance(self.count_NG, StoredCounts):
            arrays = [np.frombuffer(self.count_NG.identity(), np.uint8)]
        else:
            arrays = [self.count_NG.indptr, self.count_NG.indices, self.count_NG.data]
        return arrays if self.tile_N is None else [*arrays, self.tile_N]

    @property
    def streamed(self) -> bool:
        """Whether counts stay where they are stored."""
        return isinstance(self.count_NG, StoredCounts)

    def close(self) -> None:
        """Close what stored counts are read from."""
        if isinstance(self.count_NG, StoredCounts):
            self.count_NG.close()


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
    stream: bool | None = None,
) -> Corpus:
    """Read labelled, unlabelled and drawn cells: columns into memory, and counts too or not.

    `stream` says whether counts stay where they are stored and are read when asked for; None says
    so where a source is a SOMA experiment.

    Raises
    ------
    MissingColumnError
        A source of labelled cells lacks a column that was named; drawn cells may lack donor and
        disease, and need `PROFILE`.
    CountsError, GeneError
        A source holds no counts, or no gene of the vocabulary.
    """
    keys = {"label_key": label_key, "study_key": study_key, "donor_key": donor_key}
    parts = [CellDataset(data, genes, **keys, layer=layer, use_raw=use_raw)]
    tables = [_columns(parts[0], tissue_key, disease_key)]
    if list_of(unlabelled):
        parts.append(CellDataset(unlabelled, genes, layer=layer, use_raw=use_raw))
        tables.append(_columns(parts[-1]))
    n_real = len(parts)
    if len(drawn):
        parts.append(CellDataset(list(drawn), genes, label_key=label_key, study_key=PROFILE))
        tables.append(_columns(parts[-1], tissue_key))
    columns = pd.concat(tables, ignore_index=True)
    is_drawn = np.repeat(np.arange(len(parts)) >= n_real, [part.n_cells for part in parts])
    first_P = np.cumsum([0, *(len(part.measured_SG) for part in parts)])
    sources = [table["source"] + first for table, first in zip(tables, first_P[:-1], strict=True)]
    study_N, studies = pd.factorize(columns["study"])
    by_tiles = any(part.by_tiles for part in parts)
    drawn_set_N, measured_DG = None, None
    if len(drawn):
        of_drawn, measured_DG = _drawn_sets(parts[n_real], drawn, genes)
        drawn_set_N = np.concatenate([np.full(len(is_drawn) - len(of_drawn), -1), of_drawn])
    return Corpus(
        tile_N=_tiles(parts) if by_tiles else None,
        count_NG=_counts(parts, stream=stream),
        label_N=columns["label"].to_numpy(dtype=object),
        tissue_N=columns["tissue"].to_numpy(dtype=object),
        disease_N=columns["disease"].to_numpy(dtype=object),
        study_N=study_N,
        donor_N=_donors(columns["donor"], study_N),
        drawn_N=is_drawn,
        source_N=np.where(is_drawn, -1, pd.concat(sources).to_numpy()),
        studies=tuple(map(str, studies)),
        measured_SG=np.concatenate([part.measured_SG for part in parts[:n_real]]),
        drawn_set_N=drawn_set_N,
        measured_DG=measured_DG,
    )


def _drawn_sets(
    cells: CellDataset, drawn: Sequence[ad.AnnData], genes: GeneVocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gene set of each drawn cell, and the sets over the genes of the vocabulary.

    An AnnData without ``varm["measured"]`` measures all genes that it has.
    """
    code_N: list[np.ndarray] = []
    sets: list[np.ndarray] = []
    for adata, column_G in zip(drawn, cells.measured_SG, strict=True):
        measured = measured_genes(adata)
        if measured is None:
            code_N.append(np.full(adata.n_obs, len(sets)))
            sets.append(column_G)
            continue
        token_V = genes.match(adata.var_names, adata.var).token_of_column
        _, first_P, set_B = np.unique(
            adata.obs["gene_set"].astype(str), return_index=True, return_inverse=True
        )
        code_N.append(set_B + len(sets))
        for first in first_P:
            measured_G = np.zeros(genes.n_genes, dtype=bool)
            measured_G[token_V[measured[first] & (token_V >= 0)]] = True
            sets.append(measured_G)
    return np.concatenate(code_N), np.array(sets)


def _columns(
    cells: CellDataset, tissue_key: str | None = None, disease_key: str | None = None
) -> pd.DataFrame:
    """Return the columns of a data set."""
    nothing = np.full(cells.n_cells, "", dtype=object)
    return pd.DataFrame(
        {
            "label": cells.label,
            "tissue": cells.column(tissue_key) if tissue_key else nothing,
            "disease": cells.column(disease_key) if disease_key else nothing,
            "study": cells.study,
            "donor": cells.donor,
            "source": np.repeat(np.arange(len(cells.n_per_source)), cells.n_per_source),
        }
    )


def _counts(parts: Sequence[CellDataset], *, stream: bool | None) -> sp.csr_matrix | StoredCounts:
    """Return all counts in memory, and close the data sets; or leave them where they are."""
    if stream or (stream is None and any(part.has_soma for part in parts)):
        return StoredCounts(parts)
    counts = sp.vstack([part.in_memory() for part in parts], format="csr")
    for part in parts:
        part.close()
    return counts


def _tiles(parts: Sequence[CellDataset]) -> np.ndarray:
    """Return the tile of each cell, numbered through all data sets."""
    tiles, first = [], 0
    for part in parts:
        tile_N = part.tiles() + first
        first = int(tile_N.max(initial=first - 1)) + 1
        tiles.append(tile_N)
    return np.concatenate(tiles)


def _donors(donor: pd.Series, study_N: np.ndarray) -> np.ndarray:
    """Return codes that are one donor's; one that is unknown or generic goes with its study."""
    code_N, names = pd.factorize(donor.astype(str))  # names are few, cells are many
    folded = [name.strip().casefold() for name in names]
    nameless = np.array([name in _NO_DONOR for name in folded], dtype=bool)[code_N]
    generic = np.array([bool(_GENERIC_DONOR.fullmatch(name)) for name in folded], bool)[code_N]
    within_N = np.where(nameless | generic, study_N + 1, 0)
    name_N = np.where(nameless, 0, code_N + 1)
    return pd.factorize(within_N.astype(np.int64) * (len(names) + 1) + name_N)[0]
