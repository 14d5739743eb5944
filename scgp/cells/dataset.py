"""Cells of one or many AnnData or SOMA experiments, as rows over the genes of one vocabulary.

Owns the joining of sources and the reading of their ``obs`` columns; what is a count and what is a
gene, it asks of `counts` and `genes`. Never makes a matrix dense. Knows nothing of models.

Shape suffixes: N cells of all sources, S sources, G genes of the vocabulary, V columns of a source,
B cells asked for, E stored entries.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.columns import in_memory
from scgp.cells.counts import CountMatrix, choose_counts
from scgp.cells.genes import GeneVocabulary, match_genes
from scgp.cells.h5ad_file import open_backed
from scgp.cells.no_label import label_text, told_words
from scgp.cells.soma import TILE_ROWS, SomaCells, SomaSource, is_soma
from scgp.errors import ArgumentError, MissingColumnError, warn_user

logger = logging.getLogger(__name__)

Source: TypeAlias = ad.AnnData | SomaSource | Path | str

#: Rows read at once: some 50 MB of a matrix with 1,500 expressed genes a cell.
BLOCK_ROWS = 4096


class CellDataset:
    """Cells of several sources, one after another, with counts over the genes of a vocabulary.

    Parameters
    ----------
    sources
        AnnData (in memory or backed), paths of h5ad files (opened backed, read as needed), SOMA
        experiments (:class:`scgp.cells.soma.SomaSource`, or their address after ``soma://``), or a
        list of them. They are not changed.
    vocabulary
        The genes that become columns; columns of one gene are summed, others are left out.
    label_key
        ``obs`` column with the labels; None for cells without labels.
    study_key
        ``obs`` column with the study; None makes each source a study of its own.
    donor_key
        ``obs`` column with the donor; None where donors are unknown.
    layer, use_raw
        The matrix of each AnnData, as :func:`scgp.cells.counts.choose_counts` takes them. A SOMA
        experiment has its own: ``SomaSource(layer=...)``.

    Attributes
    ----------
    n_cells, n_per_source
        Cells of all sources, and of each.
    source_names
        Stem of the file, or "source 0" and so on.
    label, study, donor
        N strings each; "" where a value is missing or no column was named, and where a label says
        that there is none (:mod:`scgp.cells.no_label`).
    measured_SG
        Genes that each source has a column for; where it is False, a zero means "not measured".
    has_soma, by_tiles
        Whether a source is a SOMA experiment, and one that asks to be drawn from by tiles.

    Raises
    ------
    ArgumentError
        There is no source, a file or experiment is not there, a file holds no AnnData, or `layer`
        or `use_raw` is given and no source is an AnnData.
    MissingColumnError
        A source lacks a column that was named.
    CountsError, GeneError
        A source holds no counts, or no gene of the vocabulary.

    Warns
    -----
    ScgpWarning
        Words such as "unknown" stand for no label.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        vocabulary: GeneVocabulary,
        *,
        label_key: str | None = None,
        study_key: str | None = None,
        donor_key: str | None = None,
        layer: str | None = None,
        use_raw: bool | None = None,
    ) -> None:
        listed = list_of(sources)
        if not listed:
            msg = "no source of cells; expected an AnnData, a path of an h5ad file, or a list"
            raise ArgumentError(msg)
        if (layer is not None or use_raw is not None) and all(map(is_soma, listed)):
            msg = (
                "layer and use_raw are of AnnData; pass scgp.cells.soma.SomaSource(uri, layer=...)"
            )
            raise ArgumentError(msg)
        self.vocabulary = vocabulary
        self.source_names = [_name(source, s) for s, source in enumerate(listed)]
        adatas = [_open(source) for source in listed]
        self._opened = [a for a, of in zip(adatas, listed, strict=True) if a is not of]
        self._cells = adatas
        self.has_soma = any(isinstance(cells, SomaCells) for cells in adatas)
        self.by_tiles = any(isinstance(a, SomaCells) and a.source.by_tiles for a in adatas)
        self._obs = [adata.obs for adata in adatas]
        self.n_per_source = tuple(adata.n_obs for adata in adatas)
        self.n_cells = sum(self.n_per_source)
        self._start_S = np.concatenate([[0], np.cumsum(self.n_per_source)]).astype(np.int64)
        # Columns first: a missing one is found before any count is read.
        self.label = self._labels(label_key)
        self.study = self._column_or(study_key, self.source_names)
        self.donor = self._column_or(donor_key, [""] * len(listed))
        self._counts = [_counts(cells, layer, use_raw=use_raw) for cells in adatas]
        self._token_V = [match_genes(counts, vocabulary).token_of_column for counts in self._counts]
        self.measured_SG = np.zeros((len(listed), vocabulary.n_genes), dtype=bool)
        for measured_G, token_V in zip(self.measured_SG, self._token_V, strict=True):
            measured_G[token_V[token_V >= 0]] = True
        if label_key is not None and self.n_unlabelled:
            logger.info("%d of %d cells have no label", self.n_unlabelled, self.n_cells)

    def __repr__(self) -> str:
        return f"CellDataset({self.n_cells} cells of {len(self.n_per_source)} sources)"

    @property
    def n_unlabelled(self) -> int:
        """Number of cells whose label is missing."""
        return int((self.label == "").sum())

    def column(self, key: str) -> np.ndarray:
        """Read any ``obs`` column of all sources.

        Returns
        -------
        N strings (an object array), as the sources have them; "" where a value is missing.

        Raises
        ------
        MissingColumnError
            A source lacks the column; the message names those it has.
        """
        parts = []
        for name, obs in zip(self.source_names, self._obs, strict=True):
            if key not in obs:
                there = ", ".join(map(repr, obs.columns)) or "none"
                msg = f"obs of {name!r} has no column {key!r}; its columns: {there}"
                raise MissingColumnError(msg)
            values = in_memory(obs, key).astype(object)
            parts.append(np.where(values.isna(), "", values.astype(str)).astype(object))
        return np.concatenate(parts)

    def block(self, source: int, start: int, stop: int) -> sp.csr_matrix:
        """Read rows of one source, with the meaning of a slice.

        Returns
        -------
        float32 counts over the G genes of the vocabulary, canonical CSR.

        Raises
        ------
        CountsError
            A value is no count.
        """
        return self._over_genes(self._counts[source].rows(start, stop), source)

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """Read all cells in order, `BLOCK_ROWS` at most at a time."""
        for source, n_cells in enumerate(self.n_per_source):
            for start in range(0, n_cells, BLOCK_ROWS):
                yield self.block(source, start, start + BLOCK_ROWS)

    def take(self, indices: np.ndarray) -> sp.csr_matrix:
        """Read any cells, in the order given; positions count through all sources.

        Returns
        -------
        float32 counts over the G genes of the vocabulary, canonical CSR.

        Raises
        ------
        ArgumentError
            A position is not a whole number of 0 to ``n_cells - 1``.
        CountsError
            A value is no count.
        """
        index_B = np.asarray(indices)
        if index_B.size == 0:
            return sp.csr_matrix((0, self.vocabulary.n_genes), dtype=np.float32)
        if index_B.ndim != 1 or index_B.dtype.kind not in "iu":
            msg = f"positions are {index_B.dtype} {index_B.shape}; expected a list of whole numbers"
            raise ArgumentError(msg)
        if index_B.min() < 0 or index_B.max() >= self.n_cells:
            msg = (
                f"positions run from {index_B.min()} to {index_B.max()}; "
                f"expected 0 to {self.n_cells - 1}"
            )
            raise ArgumentError(msg)
        source_B = np.searchsorted(self._start_S, index_B, side="right") - 1
        parts, places = [], []
        for source in np.unique(source_B):
            place = np.flatnonzero(source_B == source)
            rows = index_B[place].astype(np.int64) - self._start_S[source]
            parts.append(self._over_genes(self._counts[source].take(rows), int(source)))
            places.append(place)
        joined = parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr")
        return joined if len(parts) == 1 else joined[np.argsort(np.concatenate(places))]

    def in_memory(self) -> sp.csr_matrix:
        """Read all cells into one matrix.

        Returns
        -------
        Counts over the G genes of the vocabulary, canonical CSR; uint16 where all counts fit,
        otherwise float32.

        Raises
        ------
        CountsError
            A value is no count.
        """
        limit = np.iinfo(np.uint16).max
        parts = [
            part.astype(np.uint16) if part.data.max(initial=0) <= limit else part
            for part in self.blocks()
        ]
        empty = sp.csr_matrix((0, self.vocabulary.n_genes), dtype=np.uint16)
        return sp.vstack(parts, format="csr") if parts else empty

    def tiles(self) -> np.ndarray:
        """Return the tile of each cell: rows that a store reads together, numbered from 0 on.

        Of a SOMA experiment, `TILE_ROWS` join ids; of all else, as many rows.
        """
        parts, first = [], 0
        for cells in self._cells:
            row_N = cells.joinid_N if isinstance(cells, SomaCells) else np.arange(cells.n_obs)
            tile_N = np.unique(row_N // TILE_ROWS, return_inverse=True)[1]
            parts.append(tile_N + first)
            first += int(tile_N.max(initial=-1)) + 1
        return np.concatenate(parts)

    def identity(self) -> bytes:
        """Digest of what is read: contents of what is in memory; where it lies, of what is not.

        Of a file that is path, size and time of its last change; of a SOMA experiment its address,
        the shape of its matrix and the join ids of the cells.
        """
        digest = hashlib.sha256(self.vocabulary.fingerprint.encode())
        for source, (cells, counts) in enumerate(zip(self._cells, self._counts, strict=True)):
            digest.update(counts.where.encode())
            if isinstance(cells, SomaCells):
                digest.update(cells.identity())
            elif cells.isbacked:
                path = Path(cells.filename).resolve()
                digest.update(f"{path}\t{path.stat().st_size}\t{path.stat().st_mtime_ns}".encode())
            else:
                for start in range(0, counts.n_cells, BLOCK_ROWS):
                    block = self.block(source, start, start + BLOCK_ROWS)
                    for part in (block.indptr, block.indices, block.data):
                        digest.update(part.tobytes())
        return digest.digest()

    def close(self) -> None:
        """Close the files that were opened from paths."""
        for cells in self._opened:
            (cells if isinstance(cells, SomaCells) else cells.file).close()

    def _labels(self, key: str | None) -> np.ndarray:
        """Read the labels; where one is a word for none there is none, and that is said."""
        given = pd.Series(self._column_or(key, [""] * len(self.n_per_source)), dtype=object)
        found_N = label_text(given).fillna("").to_numpy(dtype=object)
        if words := told_words(given):
            n_none = int((found_N == "").sum())
            warn_user(
                f"{n_none} of {len(found_N)} cells have no label in obs[{key!r}] ({words}): "
                "they count as unlabelled"
            )
        return found_N

    def _column_or(self, key: str | None, per_source: Sequence[str]) -> np.ndarray:
        """Read a column, or repeat one value per source where no column is named."""
        if key is not None:
            return self.column(key)
        return np.repeat(np.array(per_source, dtype=object), self.n_per_source)

    def _over_genes(self, counts: sp.csr_matrix, source: int) -> sp.csr_matrix:
        """Move counts from the columns of a source to the genes of the vocabulary."""
        token_E = self._token_V[source][counts.indices]
        known_E = token_E >= 0
        n_known = np.concatenate([[0], np.cumsum(known_E)])
        moved = sp.csr_matrix(
            (counts.data[known_E], token_E[known_E], n_known[counts.indptr]),
            shape=(counts.shape[0], self.vocabulary.n_genes),
        )
        moved.sum_duplicates()
        return moved


def list_of(sources: Source | Sequence[Source]) -> list[Source]:
    """Return a list of sources, of one or many."""
    one = isinstance(sources, ad.AnnData | SomaSource | Path | str)
    return [sources] if one else list(sources)  # type: ignore[arg-type]


def _name(source: Source, place: int) -> str:
    if isinstance(source, SomaSource) or is_soma(source):
        return (source if isinstance(source, SomaSource) else SomaSource(str(source))).name
    return Path(source).stem if isinstance(source, Path | str) else f"source {place}"


def _open(source: Source) -> Any:
    """Open a path backed, or an experiment; return an AnnData as it is."""
    if isinstance(source, ad.AnnData):
        return source
    if isinstance(source, SomaSource) or is_soma(source):
        return SomaCells(source)  # type: ignore[arg-type]
    if not Path(source).is_file():
        msg = (
            f"there is no file {str(source)!r}; expected an AnnData, the path of an h5ad file or "
            "soma:// and the address of a SOMA experiment"
        )
        raise ArgumentError(msg)
    return open_backed(Path(source))


def _counts(cells: Any, layer: str | None, *, use_raw: bool | None) -> CountMatrix:
    if isinstance(cells, SomaCells):
        return cells.counts()
    return choose_counts(cells, layer=layer, use_raw=use_raw)
