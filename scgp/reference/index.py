"""The reference index: vectors of labelled cells, searched, and all that answers need.

Knows vectors and labels, not AnnData or the network; neither what can be read off the parts
(`parts`), how vectors are stored and searched (`store`, `nearest`), how the directory is laid out
(`saved`), nor what becomes of the parts when cells come or go (`growing`).

Shapes: N reference cells, T labels, D width, B query cells, K neighbours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scgp.errors import ArgumentError
from scgp.reference.contents import content_fault, label_codes, text_codes, vector_fault
from scgp.reference.fusion import Fusion
from scgp.reference.growing import known_terms, linear_head, merged, thinned
from scgp.reference.parts import IndexParts
from scgp.reference.saved import MANIFEST, check_opened, read_index, write_index
from scgp.reference.store import VectorStore, as_float32, check_queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from scgp.reference.background import Background
    from scgp.reference.gene_head import GeneHead
    from scgp.reference.pairwise import PairwiseProfiles
    from scgp.reference.profiles import Profiles

__all__ = ["MANIFEST", "ReferenceIndex"]


class ReferenceIndex(IndexParts):
    """Labelled cells to compare with. Made by `build` or `load`, and never changed.

    `add`, `remove` and `merge` return a new index, which shares what vectors it can.

    Attributes
    ----------
    store
        N unit vectors of width D, float32, in segments.
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
    background
        What the terms that the model was trained on say beside these labels, or None: for an index
        that a model was trained with, and for representations.
    pairwise
        Mean profiles of real cells, which the likeliest labels are compared by, or None.
    opened
        Directory that the index was read from, and checksum of its manifest; None: made here, also
        from others by `add`, `remove`, `merge` or `compact`.
    """

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
        background: Background | None = None,
        pairwise: PairwiseProfiles | None = None,
        search: str = "auto",
        seed: int = 0,
    ) -> ReferenceIndex:
        """Index labelled cells and fit the linear head to them.

        Parameters
        ----------
        vectors_ND
            One unit vector per cell. An array of float32 that is read-only is kept as it is, and
            must not be changed by other ways; any other is copied.
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
        background
            A background whose labels are these.
        pairwise
            Pairwise profiles whose labels are these.
        search
            ``"exact"`` compares a query with every cell. ``"lists"`` puts the vectors into lists
            and reads as few of them as found .99 of the nearest 15 of 500 cells (`recall` says
            what was measured). ``"auto"`` is exact up to 50,000 cells, and lists above.
        seed
            Seed of the head's draw of cells, and of the lists.

        Raises
        ------
        ArgumentError
            Vectors are none, not finite or not of unit length, or sizes do not fit; or `search` is
            no way to search.
        LabelError
            A cell has no label.
        """
        vectors_ND = as_float32(vectors_ND)
        if fault := vector_fault(vectors_ND):
            message = f"{fault}; leave out empty cells, and divide each vector by its norm"
            raise ArgumentError(message)
        n_cells, width = vectors_ND.shape
        code_N, label_names = label_codes(labels, n_cells)
        given = np.full(n_cells, "") if studies is None else studies
        study_N, study_names = text_codes(given, n_cells, "studies")
        n_labels = len(label_names)
        text_TD = np.zeros((n_labels, width), np.float32) if text_TD is None else text_TD
        store = VectorStore.build(vectors_ND, search=search, seed=seed)
        weight_TD, bias_T = linear_head(store, code_N, n_labels, likeness_TT, seed)
        index = cls(
            store=store,
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
            background=background,
            pairwise=pairwise,
        )
        if fault := content_fault(index, n_cells=n_cells, width=width):
            message = f"cannot build an index: {fault}"
            raise ArgumentError(message)
        return index

    def search(
        self, query_BD: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the cosines and rows of the ``k`` nearest reference cells of each query.

        Nearest first, equally near ones by row; at most N. The cosines are those of the stored
        vectors, whichever way they were found: `recall` says how many are. The answer to a query
        depends neither on the others that are asked with it nor on the number of threads. FAISS
        takes as many threads as OpenMP gives it (``OMP_NUM_THREADS``).

        Returns
        -------
        Cosines B x K (float32; 0 for a zero query) and rows B x K (int64).

        Raises
        ------
        ArgumentError
            The queries are not finite or have another width, or ``k`` is no count.
        """
        query_BD = check_queries(query_BD, self.width, k)
        return self.store.search(query_BD, min(k, self.n_cells))

    def on(self, device: str | torch.device) -> ReferenceIndex:
        """Return the same index, searched on a device; lists stay with FAISS on the CPU.

        Candidates are found there; the cosines are those of `search`, and so are the rows, but for
        cells whose cosines differ by rounding.
        """
        return dataclasses.replace(self, store=self.store.on(str(device)))

    def add(
        self,
        vectors_ND: NDArray[np.float32],
        labels: Sequence[str],
        *,
        label_ids: Sequence[str] | None = None,
        studies: Sequence[str] | None = None,
        drawn: NDArray[np.bool_] | None = None,
        text_TD: NDArray[np.float32] | None = None,
        names: Sequence[str] | None = None,
        likeness_TT: NDArray[np.floating[Any]] | None = None,
        search: str = "auto",
        seed: int = 0,
    ) -> ReferenceIndex:
        """Return an index with further cells, after those there are.

        What becomes of each part is as in `merge`: the linear head is fitted anew, not shared
        between like labels unless `likeness_TT` is passed, and there is no bound for texts any
        more, so that answers can change also for labels that get no cell. The vectors are those of
        the model that made the index; of a representation, those less `centre_D`, scaled to unit
        length.

        Parameters
        ----------
        vectors_ND, labels, studies, drawn, names
            As in `build`.
        label_ids, text_TD
            Terms and text vectors in the order of ``sorted(set(labels))``. None: those that the
            index has, and none for labels that are new to it.
        likeness_TT, search, seed
            As in `merge`.

        Raises
        ------
        ArgumentError, LabelError
            As in `build` and `merge`.
        """
        label_ids, text_TD = known_terms(self, labels, label_ids, text_TD)
        part = ReferenceIndex.build(
            vectors_ND, labels, label_ids=label_ids, studies=studies, drawn=drawn, text_TD=text_TD,
            names=names, model_fingerprint=self.model_fingerprint, centre_D=self.centre_D,
            search="exact",
        )  # fmt: skip
        return ReferenceIndex.merge([self, part], likeness_TT=likeness_TT, search=search, seed=seed)

    def remove(
        self,
        removed: NDArray[Any] | Sequence[int] | Sequence[bool],
        *,
        likeness_TT: NDArray[np.floating[Any]] | None = None,
        seed: int = 0,
    ) -> ReferenceIndex:
        """Return an index without some cells; the rows of the others close up.

        Labels and studies of which no cell is left go with them. Cells that stand in lists are
        passed over, and stay on disk and in memory until `compact`. What becomes of the other parts
        is as in `merge`: the linear head is fitted anew, not shared between like labels unless
        `likeness_TT` is passed, and there is no bound for texts any more, so that answers can
        change also for labels that lose no cell. With no cell to remove, and without `likeness_TT`,
        the index itself is returned.

        Parameters
        ----------
        removed
            Rows of the cells, or one True or False for each cell.
        likeness_TT, seed
            As in `merge`.

        Raises
        ------
        ArgumentError
            There is no such row, or no cell is left.
        """
        return thinned(self, removed, likeness_TT=likeness_TT, seed=seed)

    @classmethod
    def merge(
        cls,
        indexes: Sequence[ReferenceIndex],
        *,
        likeness_TT: NDArray[np.floating[Any]] | None = None,
        search: str = "auto",
        seed: int = 0,
    ) -> ReferenceIndex:
        """Return one index of the cells of several, in their order.

        Lists are shared, not made anew. Cells that are compared as a whole and stand side by side
        become one segment, by the rule of `search`. The linear head is fitted anew, to the cells
        that `build` would draw; an index does not say whether its head was shared between like
        labels (as `scgp.build_index` does), so that the new one is not, unless `likeness_TT` is
        passed. The gene head and the mean profiles are those of the first index that has some:
        their counts are not kept. A label that the gene head does not know is answered by the other
        streams. The pairwise profiles are those of the first index too, and go if they lack a label
        of real cells. The background is that of the first index, and goes if one of the labels is
        known neither to the model nor to an index that has a background. The calibration is that of
        the first index, without label sets and without a bound for texts (``novelty_text``), which
        were measured on its own cells.

        A term has the name of the first index with it; a warning tells others. One index alone,
        without `likeness_TT`, keeps heads and calibration; with `search` "auto" it is returned.

        Parameters
        ----------
        indexes
            Of one model and width.
        likeness_TT
            As in `build`, for all labels of the new index, sorted.
        search
            As in `build`, for the cells that have no lists yet.
        seed
            As in `build`.

        Raises
        ------
        FingerprintError
            Other models made the vectors.
        ArgumentError
            There is no index, widths differ, or a label has two terms.
        """
        return merged(indexes, likeness_TT=likeness_TT, search=search, seed=seed)

    def compact(self, *, search: str = "auto", seed: int = 0) -> ReferenceIndex:
        """Return the same index with its vectors in one segment, without those removed.

        Needs memory for a copy of all vectors. Lists are made anew, as in `build`.
        """
        store = VectorStore.build(self.store.vectors_ND, search=search, seed=seed)
        return dataclasses.replace(self, store=store, opened=None)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the index directory, all of it or nothing.

        Raises
        ------
        ArgumentError
            ``path`` exists (with ``overwrite``: and is no saved index).
        OSError
            The disk has no room; ``path`` is as before.
        """
        write_index(self, path, overwrite=overwrite)

    @classmethod
    def load(
        cls, path: str | Path, *, model_fingerprint: str | None = None, memory_map: bool = False
    ) -> ReferenceIndex:
        """Read an index directory.

        Parameters
        ----------
        model_fingerprint
            Fingerprint of the model whose vectors will be searched for, or ``"obsm:"`` and the key
            of a representation; None: not compared.
        memory_map
            Leave vectors and lists on disk, and read what a search needs. The manifest, the sizes
            of all files and all labels are checked as ever; the checksums of vectors and lists, the
            length of the vectors and the rows in the lists are not: `check` does that. The
            files must not be changed. Replacing the directory as a whole, as `save` does, is no
            harm: this index searches, and saves, what it opened. Only `check`, and workers that are
            to open it for themselves, then refuse it.

        Raises
        ------
        FingerprintError
            Another model made the index, or it is of a representation.
        CheckpointError
            The directory is incomplete, altered, or no index.
        ArgumentError
            The memory available is less than the vectors need, and they are not to be mapped.
        """
        return read_index(cls, path, model_fingerprint=model_fingerprint, memory_map=memory_map)

    def check(self) -> None:
        """Check all that ``load(..., memory_map=True)`` leaves out; reads every file to its end.

        Raises
        ------
        CheckpointError
            A file is not as it was written, vectors are not of unit length, lists lack cells, or
            the directory was written anew since.
        """
        check_opened(self)
