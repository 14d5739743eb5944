"""The reference index: vectors of labelled cells, searched exactly, and all that answers need.

Owns FAISS, which is imported only when an index is made or read, and the index directory
(``index.json``, ``vectors.faiss``, ``labels.npz``, ``profiles.npz`` where there are mean profiles).
Knows vectors, not AnnData or the network.

Shapes: N reference cells, T labels, D width, B query cells, K neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError, CheckpointError, FingerprintError, LabelError
from scgp.model.directory import load_npz, read_directory, save_npz, write_directory
from scgp.reference.contents import (
    ARRAYS,
    CENTRE,
    OBSM,
    TEXTS,
    array_fault,
    content_fault,
    maker_fault,
    text_codes,
    vector_fault,
)
from scgp.reference.evidence import Fusion
from scgp.reference.gene_head import GeneHead
from scgp.reference.head import fit_head
from scgp.reference.kinship import shared_head
from scgp.reference.profiles import Profiles

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from numpy.typing import NDArray

KIND = "reference index"
MANIFEST = "index.json"
# Only where there are mean profiles: as of 0.8.0, and of counts.
PROFILES = "profiles.npz"
# FAISS is asked for more than k, so that rounding inside it cannot decide which of several
# equally near cells are among the k.
SPARE = 16
SEARCH_BLOCK = 1024


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReferenceIndex:
    """Labelled cells to compare with. Made by `build` or `load`.

    Attributes
    ----------
    faiss_index
        ``IndexFlatIP`` of N unit vectors of width D, float32.
    labels, label_ids
        The T labels, sorted, and their ontology terms (``""`` where a label has none).
    code_N
        Label of each cell, int32.
    studies, study_N
        Names of the studies, and the study of each cell, int32; the one name ``""`` where none
        were given.
    drawn_N
        Whether the cell was drawn from a mean profile.
    text_TD
        Vectors of the labels' texts in the space of the model's type slot, float32; zero: none.
    head_weight_TD, head_bias_T
        The linear head, float32.
    model_fingerprint
        Fingerprint of the model that made the vectors, or ``"obsm:"`` and the key of the
        representation that they are of.
    calibration
        The `Fusion` that answers are made with.
    names_N
        Names of the cells (str), or None.
    gene_head
        The linear map from genes to labels, or None.
    centre_D
        What was taken from a representation in ``obsm`` before its rows were scaled to unit length
        (float32), or None: the vectors are a model's.
    profiles
        What the labels express (`scgp.predict_expression`), or None.
    """

    faiss_index: Any
    labels: list[str]
    label_ids: list[str]
    code_N: NDArray[np.int32]
    studies: list[str]
    study_N: NDArray[np.int32]
    drawn_N: NDArray[np.bool_]
    text_TD: NDArray[np.float32]
    head_weight_TD: NDArray[np.float32]
    head_bias_T: NDArray[np.float32]
    model_fingerprint: str
    calibration: Fusion
    names_N: NDArray[np.str_] | None = None
    gene_head: GeneHead | None = None
    centre_D: NDArray[np.float32] | None = None
    profiles: Profiles | None = None

    @classmethod
    def build(
        cls,
        vectors_ND: NDArray[np.float32],
        labels: Sequence[str],
        *,
        label_ids: Sequence[str],
        model_fingerprint: str,
        studies: Sequence[str] | None = None,
        drawn: NDArray[np.bool_] | None = None,
        text_TD: NDArray[np.float32] | None = None,
        calibration: Fusion | None = None,
        names: Sequence[str] | None = None,
        gene_head: GeneHead | None = None,
        likeness_TT: NDArray[np.floating[Any]] | None = None,
        centre_D: NDArray[np.float32] | None = None,
        profiles: Profiles | None = None,
        seed: int = 0,
    ) -> ReferenceIndex:
        """Index labelled cells and fit the linear head to them.

        Parameters
        ----------
        vectors_ND
            One unit vector per cell.
        labels
            One label per cell, any text but the empty one.
        label_ids, text_TD
            Terms and text vectors of the labels in the order of ``sorted(set(labels))``.
        model_fingerprint
            Fingerprint of the model that made the vectors.
        studies, drawn, names
            One per cell.
        calibration
            Default: an unfitted `Fusion`.
        gene_head
            A gene head whose labels are ``sorted(set(labels))``.
        likeness_TT
            How alike the labels' descriptions are (`kinship.likeness`): labels that are alike share
            what the linear head learns of them. None: they do not.
        centre_D
            What was taken from a representation in ``obsm``; None for vectors of a model.
        profiles
            Mean profiles, of any labels.
        seed
            Seed of the head's draw of cells.

        Raises
        ------
        ArgumentError
            Vectors are none, not finite or not of unit length, or sizes do not fit.
        LabelError
            A cell has no label.
        """
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        if fault := vector_fault(vectors_ND):
            message = f"{fault}; leave out empty cells, and divide each vector by its norm"
            raise ArgumentError(message)
        n_cells, width = vectors_ND.shape
        code_N, label_names = text_codes(labels, n_cells, "labels")
        if "" in label_names:
            n_missing = int((code_N == label_names.index("")).sum())
            message = f"{n_missing} of {n_cells} cells have no label; leave them out"
            raise LabelError(message)
        given = np.full(n_cells, "") if studies is None else studies
        study_N, study_names = text_codes(given, n_cells, "studies")
        n_labels = len(label_names)
        text_TD = np.zeros((n_labels, width), np.float32) if text_TD is None else text_TD
        weight_TD, bias_T = fit_head(vectors_ND, code_N, n_labels, seed=seed)
        if likeness_TT is not None:
            weight_TD, bias_T = shared_head(weight_TD, bias_T, likeness_TT)
        index = cls(
            faiss_index=_flat_index(vectors_ND),
            labels=label_names,
            label_ids=list(label_ids),
            code_N=code_N,
            studies=study_names,
            study_N=study_N,
            drawn_N=np.zeros(n_cells, bool) if drawn is None else np.array(drawn, bool),
            text_TD=np.array(text_TD, np.float32),
            head_weight_TD=weight_TD,
            head_bias_T=bias_T,
            model_fingerprint=model_fingerprint,
            calibration=calibration or Fusion(),
            names_N=None if names is None else np.array(names, dtype=str),
            gene_head=gene_head,
            centre_D=centre_D,
            profiles=profiles,
        )
        if fault := content_fault(index, n_cells=n_cells, width=width):
            message = f"cannot build an index: {fault}"
            raise ArgumentError(message)
        return index

    def __repr__(self) -> str:
        drawn = int(self.drawn_N.sum())
        return (
            f"ReferenceIndex: {self.n_cells} cells ({drawn} drawn), {len(self.labels)} labels, "
            f"{len(self.studies)} studies, width {self.width}"
            + ("" if self.use_rep is None else f" (obsm[{self.use_rep!r}])")
        )

    @property
    def use_rep(self) -> str | None:
        """Key in ``obsm`` of the representation that the vectors are of; None: of a model."""
        made_by = self.model_fingerprint
        return made_by.removeprefix(OBSM) if made_by.startswith(OBSM) else None

    @property
    def n_cells(self) -> int:
        """Number of reference cells."""
        return int(self.faiss_index.ntotal)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.faiss_index.d)

    @property
    def cells_per_label_T(self) -> NDArray[np.int64]:
        """Number of cells of each label."""
        return np.bincount(self.code_N, minlength=len(self.labels))

    @functools.cached_property
    def vectors_ND(self) -> NDArray[np.float32]:
        """The vectors, as FAISS holds them: not a copy, not to be written to."""
        import faiss

        flat = faiss.rev_swig_ptr(self.faiss_index.get_xb(), self.n_cells * self.width)
        vectors_ND: NDArray[np.float32] = flat.reshape(self.n_cells, self.width)
        vectors_ND.flags.writeable = False
        return vectors_ND

    def search(
        self, query_BD: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the cosines and rows of the ``k`` nearest reference cells of each query.

        Exact; nearest first, equally near ones by row; at most N. The cosines of a query do not
        depend on which others are asked with it.

        Returns
        -------
        Cosines B x K (float32; 0 for a zero query) and rows B x K (int64).

        Raises
        ------
        ArgumentError
            The queries are not finite or have another width, or ``k`` is below 1.
        """
        query_BD = np.ascontiguousarray(query_BD, np.float32)
        if query_BD.ndim != 2 or query_BD.shape[1] != self.width:
            message = (
                f"queries have the shape {query_BD.shape}, expected (cells, {self.width}): vectors "
                "of the model that made the index"
            )
            raise ArgumentError(message)
        if k < 1 or not np.isfinite(query_BD).all():
            found = f"k is {k}" if k < 1 else "queries hold NaN or infinite values"
            message = f"{found}; expected k >= 1 and finite vectors"
            raise ArgumentError(message)
        k = min(k, self.n_cells)
        similarity_BK = np.empty((len(query_BD), k), np.float32)
        row_BK = np.empty((len(query_BD), k), np.int64)
        for start in range(0, len(query_BD), SEARCH_BLOCK):
            part = slice(start, start + SEARCH_BLOCK)
            similarity_BK[part], row_BK[part] = self._search_block(query_BD[part], k)
        return similarity_BK, row_BK

    def _search_block(
        self, query_BD: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search, then take the cosines anew: those of FAISS depend on the size of the batch."""
        _, row_BK = self.faiss_index.search(query_BD, min(k + SPARE, self.n_cells))
        if row_BK.min() < 0:
            message = "FAISS found fewer cells than there are: the index is broken, build it anew"
            raise CheckpointError(message)
        similarity_BK = np.einsum("bd,bkd->bk", query_BD, self.vectors_ND[row_BK])
        order_BK = np.lexsort((row_BK, -similarity_BK), axis=1)[:, :k]
        return (
            np.take_along_axis(similarity_BK, order_BK, axis=1),
            np.take_along_axis(row_BK, order_BK, axis=1),
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the index directory, all of it or nothing.

        Raises
        ------
        ArgumentError
            ``path`` exists (with ``overwrite``: and is no saved index).
        """
        arrays = {name: np.asarray(getattr(self, name)) for name in (*ARRAYS, *TEXTS)}
        if self.names_N is not None:
            arrays["names_N"] = self.names_N
        if self.centre_D is not None:
            arrays[CENTRE] = self.centre_D
        if self.gene_head is not None:
            arrays |= {f"gene_head_{name}": x for name, x in self.gene_head.arrays().items()}
        manifest = {
            "n_cells": self.n_cells,
            "width": self.width,
            "n_labels": len(self.labels),
            "model_fingerprint": self.model_fingerprint,
            "calibration": self.calibration.to_dict(),
        }
        files: dict[str, Callable[[Path], None]] = {
            "vectors.faiss": self._write_vectors,
            "labels.npz": lambda p: save_npz(p, arrays),
        }
        if self.profiles is not None:
            profiles = self.profiles.arrays()
            files[PROFILES] = lambda p: save_npz(p, profiles)
        write_directory(
            path,
            files,
            manifest,
            kind=KIND,
            manifest_name=MANIFEST,
            overwrite=overwrite,
        )

    def _write_vectors(self, path: Path) -> None:
        import faiss

        faiss.write_index(self.faiss_index, str(path))
        expected = self.n_cells * self.width * 4
        if (found := path.stat().st_size) < expected:  # FAISS does not notice a full disk
            message = f"{path} has {found} bytes, expected {expected} and more: is the disk full?"
            raise OSError(message)

    @classmethod
    def load(cls, path: str | Path, *, model_fingerprint: str | None = None) -> ReferenceIndex:
        """Read an index directory.

        Parameters
        ----------
        model_fingerprint
            Fingerprint of the model whose vectors will be searched for, or ``"obsm:"`` and the key
            of a representation; None: not compared.

        Raises
        ------
        FingerprintError
            Another model made the index, or it is of a representation.
        CheckpointError
            The directory is incomplete, altered, or no index.
        """
        manifest = read_directory(path, kind=KIND, manifest_name=MANIFEST)
        made_by = str(manifest.get("model_fingerprint"))
        asked = made_by if model_fingerprint is None else model_fingerprint
        if fault := maker_fault(made_by, asked):
            message = f"the index {path} {fault}"
            raise FingerprintError(message)
        missing = {"vectors.faiss", "labels.npz"} - set(manifest["files"])
        if missing or not isinstance(manifest.get("calibration"), dict):
            message = f"{path} lacks {sorted(missing) or 'its calibration'}; save the index anew"
            raise CheckpointError(message)
        arrays = load_npz(Path(path) / "labels.npz")
        if fault := array_fault(arrays):
            message = f"labels.npz of {path} {fault}; save the index anew"
            raise CheckpointError(message)
        contents: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
        contents |= {name: arrays[name].tolist() for name in TEXTS}
        index = cls(
            faiss_index=_read_vectors(Path(path) / "vectors.faiss"),
            model_fingerprint=made_by,
            calibration=Fusion.from_dict(manifest["calibration"]),
            names_N=arrays.get("names_N"),
            gene_head=_gene_head(arrays),
            centre_D=arrays.get(CENTRE),
            profiles=_profiles(Path(path), manifest["files"]),
            **contents,
        )
        fault = vector_fault(index.vectors_ND)
        if fault := fault or content_fault(index, n_cells=index.n_cells, width=index.width):
            message = f"{path} cannot be used: {fault}; save the index anew"
            raise CheckpointError(message)
        return index


def _gene_head(arrays: dict[str, NDArray[Any]]) -> GeneHead | None:
    """Return the gene head of labels.npz; indexes of earlier versions have none."""
    names = [field.name for field in dataclasses.fields(GeneHead)]
    found = {n: arrays[f"gene_head_{n}"] for n in names if f"gene_head_{n}" in arrays}
    return GeneHead(**found) if found else None


def _profiles(path: Path, listed: Container[str]) -> Profiles | None:
    """Return the mean profiles of a directory; indexes of earlier versions have none."""
    if PROFILES not in listed:
        return None
    try:
        return Profiles.from_arrays(load_npz(path / PROFILES))
    except CheckpointError as error:
        message = f"{PROFILES} of {path}: {error}"
        raise CheckpointError(message) from error


def _flat_index(vectors_ND: NDArray[np.float32]) -> Any:
    import faiss

    index = faiss.IndexFlatIP(vectors_ND.shape[1])
    index.add(vectors_ND)
    return index


def _read_vectors(path: Path) -> Any:
    """Read the vectors; nothing but a flat index of finite unit vectors is taken."""
    import faiss

    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        message = f"{path} cannot be read by FAISS: {error}"
        raise CheckpointError(message) from error
    if type(index) is not faiss.IndexFlatIP:
        message = f"{path} holds a {type(index).__name__}, expected an IndexFlatIP"
        raise CheckpointError(message)
    return index
