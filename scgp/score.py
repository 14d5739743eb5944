"""score_text(): how well texts describe each cell.

Owns how a text becomes a vector: an ontology term by the vector that the model stores, anything
else by the text encoder. Must not know how cells are embedded (`embed`) or slots written (`slots`).

Shape suffixes: B cells, T texts, W width of the text encoder, E width of the joint space.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scgp.embed import embed_adata, resolve_model, warn_empty
from scgp.errors import ArgumentError
from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.text import MINILM_NAME, TextEncoder
from scgp.slots import check_target, write_slots

#: An id of any OBO ontology (CL, UBERON, MONDO ...), also as in its web address.
_READS_AS_ID = re.compile(r"[A-Za-z]+[:_]\d{7}")
#: Texts that a message names; of more it gives the number.
_NAMED = 5


def score_text(
    adata: ad.AnnData,
    texts: str | Sequence[str],
    *,
    model: Model | str | Path | None = None,
    encoder: TextEncoder | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    key_added: str = "scgp_text",
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Score how well each text describes each cell: the cosine of their vectors.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. Genes by HGNC symbol or Ensembl id.
    texts
        One text, or a list of them. A text that is an id, a label or an exact synonym of the Cell
        Ontology ("CL:0000623", "natural killer cell", "NK cell") is read as that term, whose vector
        the model stores. Any other is free text. A text given twice has two equal columns.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    encoder
        A :class:`scgp.phenotypes.text.TextEncoder` for free text: the one that made the model's
        text vectors. None makes all-MiniLM-L6-v2, which made those of the default checkpoint,
        from the extra ``scgp[text]``, and only where a text is free.
    layer, use_raw
        Where the counts are, if not in ``X``.
    key_added
        Name of the slots written.
    batch_size
        Cells read at once; bounds memory, does not change the answer.
    device
        ``"cpu"``, ``"cuda"`` or None for the CPU: where the cells are embedded.
    progress
        Show a progress bar.
    copy
        Return a changed copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Written are

    ``obsm["scgp_text"]`` : float32, cells x texts
        Cosine between the cell's type vector and the text, -1 to 1, in the order of `texts`; zero
        rows for cells without a count. No probability: compare cells within one column.
    ``uns["scgp_text"]`` : dict
        ``texts`` as given and ``ontology_term_ids``, the term that each was read as ("" for free
        text): lists, which a file gives back as arrays. Model, counts and genes that were used.

    Raises
    ------
    ArgumentError
        No text, a blank one, or the id of a term that the model has no vector of; free text
        without an encoder, or with another than the model's.
    CountsError
        The matrix does not hold raw counts.
    GeneError
        No gene is in common with the model.
    DeviceError
        The device is not there.

    Warns
    -----
    ScgpWarning
        Few genes in common, duplicated genes (summed), empty cells.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> scgp.score_text(adata, ["B cell", "T cell"], progress=False)
    >>> adata.obsm["scgp_text"].shape
    (700, 2)
    >>> adata.uns["scgp_text"]["ontology_term_ids"]
    ['CL:0000236', 'CL:0000084']
    >>> is_b = (adata.obs["bulk_labels"] == "CD19+ B").to_numpy()
    >>> b_score = adata.obsm["scgp_text"][:, 0]
    >>> bool(b_score[is_b].mean() > b_score[~is_b].mean() + 0.1)
    True
    """
    check_target(adata, key_added=key_added, copy=copy)
    given = _listed(texts)
    model = resolve_model(model)
    term_ids = _stored_terms(given, model)
    # before the cells are embedded, which takes longer than to find that an encoder is missing
    text_TE = model.project_vectors(_text_vectors(given, term_ids, model, encoder))
    vectors, facts = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress,
    )  # fmt: skip
    warn_empty(vectors, "their scores are zero")
    facts |= {"texts": given, "ontology_term_ids": term_ids}
    slots: dict[str, dict[str, object]] = {
        "obsm": {key_added: vectors.type_BE @ text_TE.T},
        "uns": {key_added: facts},
    }
    return write_slots(adata, slots, copy=copy)


def _listed(texts: str | Sequence[str]) -> list[str]:
    """Return the texts as a list of strings that can be read and written to a file."""
    given = texts.tolist() if isinstance(texts, np.ndarray | pd.Series | pd.Index) else texts
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, Sequence) or not given:
        found = "empty" if isinstance(given, Sequence) else f"a {type(given).__name__}"
        msg = f"texts is {found}; expected a text such as 'B cell', or a list of texts"
        raise ArgumentError(msg)
    for t, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            msg = f"texts[{t}] is {text!r}; expected words that describe a cell, or a term's id"
            raise ArgumentError(msg)
        if "\0" in text or text != text.encode(errors="ignore").decode():
            msg = f"texts[{t}], {text!r}, holds characters that no file can; remove them"
            raise ArgumentError(msg)
    return [str(text) for text in given]


def _stored_terms(texts: Sequence[str], model: Model) -> list[str]:
    """Return the id of each text that names a term with a stored vector; "" for free text."""
    found = Ontology("CL").resolve(text.strip() for text in texts)
    term_ids = [term if term in model.phenotypes else "" for term in found]
    for text, term in zip(texts, term_ids, strict=True):
        if not term and _READS_AS_ID.fullmatch(text.strip()):
            msg = (
                f"{text!r} reads as an ontology id, but it names no live Cell Ontology term whose "
                "vector is in the model, and digits mean nothing to a text encoder; say in words "
                "what it stands for"
            )
            raise ArgumentError(msg)
    return term_ids


def _text_vectors(
    texts: Sequence[str], term_ids: Sequence[str], model: Model, encoder: TextEncoder | None
) -> np.ndarray:
    """Return the vectors of the texts (T x W): stored ones of terms, encoded ones of free text."""
    if encoder is not None:
        _check_encoder(encoder, model)
    vector_TW = model.phenotypes.vectors(term_ids)
    rows = [t for t, term in enumerate(term_ids) if not term]
    free = list(dict.fromkeys(texts[t] for t in rows))  # each once, that equals stay equal
    if free:
        encoder = encoder or _own_encoder(model, free)
        vector_of = dict(zip(free, encoder.encode(free), strict=True))
        vector_TW[rows] = [vector_of[texts[t]] for t in rows]
    return vector_TW


def _check_encoder(encoder: TextEncoder, model: Model) -> None:
    """Refuse an encoder whose vectors are not those that the model learnt to read."""
    if not isinstance(encoder, TextEncoder):
        msg = (
            f"encoder is a {type(encoder).__name__}; expected a scgp.phenotypes.text.TextEncoder, "
            "or None"
        )
        raise ArgumentError(msg)
    known = model.phenotypes
    if (encoder.name, encoder.width) != (known.encoder, known.width):
        msg = (
            f"the encoder is {encoder.name} (width {encoder.width}), but the model was trained "
            f"with {known.encoder} (width {known.width}), and vectors of different encoders cannot "
            "be compared; pass that encoder"
        )
        raise ArgumentError(msg)


def _own_encoder(model: Model, free: Sequence[str]) -> TextEncoder:
    """Return the encoder that the model was trained with; `free` are the texts that need it."""
    more = f" and {len(free) - _NAMED} more" if len(free) > _NAMED else ""
    need = (
        f"{', '.join(map(repr, free[:_NAMED]))}{more}: no id, label or exact synonym of a Cell "
        "Ontology term that the model stores, so a text encoder must read it"
    )
    if model.phenotypes.encoder != MINILM_NAME:
        msg = (
            f"{need}; the model was trained with {model.phenotypes.encoder}, which scgp does not "
            "bring: pass encoder=scgp.phenotypes.text.TextEncoder(...) of that encoder"
        )
        raise ArgumentError(msg)
    try:
        encoder = TextEncoder.minilm()
    except ArgumentError as error:  # the extra is not installed
        msg = f"{need}; {error}"
        raise ArgumentError(msg) from error
    _check_encoder(encoder, model)
    return encoder
