"""What an index holds beside its vectors, checked: the same for one just built and one just read.

The functions named ``*_fault`` return what is wrong in words, or nothing.

Shapes: N reference cells, T labels, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgp.errors import ArgumentError, LabelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# The arrays and texts of labels.npz that every index has.
ARRAYS = {
    "code_N": np.int32,
    "study_N": np.int32,
    "drawn_N": np.bool_,
    "text_TD": np.float32,
    "head_weight_TD": np.float32,
    "head_bias_T": np.float32,
}
# Those of the gene head, all or none.
GENE_ARRAYS = {
    "gene_head_gene_H": np.int32,
    "gene_head_scale_H": np.float32,
    "gene_head_mean_H": np.float32,
    "gene_head_weight_HT": np.float16,
    "gene_head_bias_T": np.float32,
}
# What the gene head has had since 0.5.0.
DESCRIBED = "gene_head_described_HT"
# The background, both or none, since 0.11.0; and its terms.
BACKGROUND = {"background_text_UD": np.float32, "background_read_TU": np.float32}
BACKGROUND_IDS = "background_ids"
# The pairwise profiles, all or none, since 0.15.0; their names start with this.
PAIRWISE = "pairwise_"
PAIRWISE_ARRAYS = {
    f"{PAIRWISE}gene_H": np.int32,
    f"{PAIRWISE}mean_PH": np.float16,
    f"{PAIRWISE}label_P": np.int32,
}
TEXTS = ("labels", "label_ids", "studies")
# Of an index of a representation in obsm: what was taken from it before rows were scaled.
CENTRE = "centre_D"
# The fingerprint of such an index is this and the key.
OBSM = "obsm:"
# What index.json says of the lists of a segment.
LISTED = {"file": "", "n_lists": 1, "probes": 1, "recall_15": 0.0, "recall_15_moved": 0.0}
# A unit vector in float32 is off by far less; more means that it is no unit vector.
UNIT_SLACK = 1e-3


def maker_fault(made_by: str, asked: str) -> str:
    """Say why an index does not fit the vectors it is asked with, and what to do; "" if it does."""
    if made_by == asked:
        return ""
    if made_by.startswith(OBSM):
        key = made_by.removeprefix(OBSM)
        return (
            f"holds vectors of obsm[{key!r}], which no others can be compared with. Pass "
            f"use_rep={key!r} to scgp.annotate; no other verb can use it"
        )
    if asked.startswith(OBSM):
        key = asked.removeprefix(OBSM)
        return (
            f"was made by the model {made_by[:12]}, not from obsm[{key!r}]: leave use_rep out, or "
            f"make the index anew with scgp.build_index(..., use_rep={key!r})"
        )
    return (
        f"was made by the model {made_by[:12]}, and this is the model {asked[:12]}: their vectors "
        "cannot be compared. Make the index anew with scgp.build_index, or pass the model that "
        "made it"
    )


def text_codes(values: Any, n_cells: int, what: str) -> tuple[NDArray[np.int32], list[str]]:
    """Return the code of each value and the texts, sorted; a missing value is ``""``."""
    given = pd.Series(values)
    if len(given) != n_cells:
        message = f"there are {len(given)} {what} for {n_cells} vectors, expected one each"
        raise ArgumentError(message)
    text_N = given.astype(object).where(given.notna().to_numpy(), "").astype(str)
    code_N, names = pd.factorize(text_N.to_numpy(object), sort=True)
    return code_N.astype(np.int32), names.tolist()


def label_codes(labels: Any, n_cells: int) -> tuple[NDArray[np.int32], list[str]]:
    """Return the code of each cell's label and the labels, sorted; every cell has one."""
    code_N, names = text_codes(labels, n_cells, "labels")
    if "" in names:
        n_missing = int((code_N == names.index("")).sum())
        message = f"{n_missing} of {n_cells} cells have no label; leave them out"
        raise LabelError(message)
    return code_N, names


def vector_fault(vectors_ND: NDArray[np.float32], first: int = 0) -> str:
    """Look for vectors that are not finite or not of unit length; they are rows from ``first``."""
    if vectors_ND.ndim != 2 or not vectors_ND.size:
        return f"vectors have the shape {vectors_ND.shape}, expected (cells, width) and a cell"
    norm_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    odd = np.flatnonzero(~(np.abs(norm_N - 1) <= UNIT_SLACK))
    if not len(odd):
        return ""
    example = f"row {first + odd[0]} has {norm_N[odd[0]]:.4g}"
    return f"{len(odd)} of {len(norm_N)} vectors are not of unit length ({example})"


def array_fault(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Look for arrays of labels.npz that are missing or of another type."""
    gene: dict[str, Any] = GENE_ARRAYS if GENE_ARRAYS.keys() & arrays.keys() else {}
    if DESCRIBED in arrays:
        gene = {**GENE_ARRAYS, DESCRIBED: np.float16}
    centre: dict[str, Any] = {CENTRE: np.float32} if CENTRE in arrays else {}
    has_background = bool({*BACKGROUND, BACKGROUND_IDS} & arrays.keys())
    background: dict[str, Any] = BACKGROUND if has_background else {}
    pairwise: dict[str, Any] = PAIRWISE_ARRAYS if PAIRWISE_ARRAYS.keys() & arrays.keys() else {}
    every = {**ARRAYS, **gene, **centre, **background, **pairwise}
    kinds = {name: np.dtype(kind) for name, kind in every.items()}
    odd = [name for name, kind in kinds.items() if name not in arrays or arrays[name].dtype != kind]
    texts = [*TEXTS, *(["names_N"] if "names_N" in arrays else [])]
    texts += [BACKGROUND_IDS] if has_background else []
    odd += [name for name in texts if name not in arrays or arrays[name].dtype.kind != "U"]
    return f"lacks {', '.join(odd)}, or has them in another type" if odd else ""


def segment_fault(segments: Any) -> str:
    """Look for what index.json must say of the segments of format 2 and does not."""
    if not isinstance(segments, list) or not segments:
        return "names no segments"
    for fact in segments:
        lists: Any = fact.get("lists", LISTED) if isinstance(fact, dict) else None
        if not isinstance(lists, dict) or not lists.keys() >= LISTED.keys():
            return "names a segment without its files"
        if not isinstance(fact.get("vectors"), str) or not isinstance(lists["file"], str):
            return "names a segment without its files"
        recalls = [lists[name] for name in ("recall_15", "recall_15_moved")]
        probes = lists["probes"]
        whole = isinstance(probes, int) and probes >= 1
        if not whole or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in recalls):
            return f"says {probes} of the probes of a segment, and {recalls} of its recall"
    return ""


def content_fault(index: Any, *, n_cells: int, width: int) -> str:
    """Look for contents of a `ReferenceIndex` that contradict each other."""
    n_labels = len(index.labels)
    expected = {
        "label_ids": (n_labels,),
        "code_N": (n_cells,),
        "study_N": (n_cells,),
        "drawn_N": (n_cells,),
        "text_TD": (n_labels, *index.text_TD.shape[1:2]),
        "head_weight_TD": (n_labels, width),
        "head_bias_T": (n_labels,),
        "names_N": (n_cells,),
        "centre_D": (width,),
    }
    for name, shape in expected.items():
        value = getattr(index, name)
        if value is not None and np.shape(value) != shape:
            return f"{name} has the shape {np.shape(value)}, expected {shape}"
    if not index.labels or index.labels != sorted(set(index.labels)):
        return "labels are not sorted, each once"
    for name, n_names in (("code_N", n_labels), ("study_N", len(index.studies))):
        code_N = getattr(index, name)
        if code_N.min() < 0 or code_N.max() >= n_names:
            return f"{name} has codes from {code_N.min()} to {code_N.max()} for {n_names} names"
    for name in ("text_TD", "head_weight_TD", "head_bias_T", "centre_D"):
        value = getattr(index, name)
        if value is not None and not np.isfinite(value).all():
            return f"{name} holds NaN or infinite values"
    if index.background is not None:
        width_of_texts = index.text_TD.shape[1]
        if fault := index.background.fault(index.label_ids, width_of_texts):
            return str(fault)
    of_pairs = "" if index.pairwise is None else str(index.pairwise.fault(n_labels))
    of_head = "" if index.gene_head is None else _gene_head_fault(index.gene_head, n_labels)
    return of_pairs or of_head


def _gene_head_fault(head: Any, n_labels: int) -> str:
    """Look for parts of a `GeneHead` that contradict each other."""
    n_genes = len(head.gene_H)
    expected = {
        "scale_H": (n_genes,),
        "mean_H": (n_genes,),
        "weight_HT": (n_genes, n_labels),
        "bias_T": (n_labels,),
    }
    if head.described_HT is not None:
        expected["described_HT"] = (n_genes, n_labels)
    for name, shape in expected.items():
        value = getattr(head, name)
        if np.shape(value) != shape:
            return f"{name} of the gene head has the shape {np.shape(value)}, expected {shape}"
        # NaN in the bias says that the head does not know the label
        known = value[~np.isnan(value)] if name == "bias_T" else value
        if not np.isfinite(known).all() or (n_labels and not len(known) and n_genes):
            return f"{name} of the gene head holds NaN or infinite values"
    if n_genes and (head.gene_H.min() < 0 or np.any(np.diff(head.gene_H) <= 0)):
        return "genes of the gene head are not ascending, each once"
    if np.any(head.scale_H <= 0):
        return "scale_H of the gene head is not positive"
    return ""
