"""Words that a user wrote become vectors: those of ontology terms, or of free text.

Owns how a text is read: an ontology term by the vector that the model stores, anything else by the
text encoder; and every message about texts that cannot be read, or may be read otherwise than they
were meant. Must not know what is done with the vectors: `score` compares cells with them, `labels`
lets them compete.

Shape suffixes: T texts, W width of the text encoder.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from scgp.errors import ArgumentError, warn_user
from scgp.model.checkpoint import Model
from scgp.phenotypes.ontology import Ontology, as_id
from scgp.phenotypes.text import MINILM_NAME, TextEncoder

#: Texts that a message names; of more it gives the number.
_NAMED = 5


def listed(texts: str | Sequence[str], argument: str = "texts") -> list[str]:
    """Return the texts as a list of strings that can be read and written to a file.

    Raises
    ------
    ArgumentError
        No text, a blank one, or what is no text; the message calls them by `argument`.
    """
    unordered = isinstance(texts, str | bytes | set | frozenset | Mapping)
    listable = isinstance(texts, Iterable) and not unordered
    given = [texts] if isinstance(texts, str) else list(texts) if listable else texts
    if not isinstance(given, list) or not given:
        found = "empty" if isinstance(given, list) else f"a {type(given).__name__}"
        msg = f"{argument} is {found}; expected a text such as 'B cell', or a list of texts"
        raise ArgumentError(msg)
    for t, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            msg = (
                f"{argument}[{t}] is {text!r}; expected words that describe a cell, or a term's id"
            )
            raise ArgumentError(msg)
        if "\0" in text or text != text.encode(errors="ignore").decode():
            msg = f"{argument}[{t}], {text!r}, holds characters that no file can; remove them"
            raise ArgumentError(msg)
    return [str(text) for text in given]


def read_terms(texts: Sequence[str], model: Model, also: Container[str] = ()) -> list[str]:
    """Return the id of each text that names a term with a stored vector; "" for free text.

    A name is read as `Ontology.read` reads it, and nothing is said: `warn_readings` does.

    Parameters
    ----------
    also
        Terms that may be named though the model stores no vector of them.

    Raises
    ------
    ArgumentError
        A text reads as an id, and is that of no such term.
    """
    found = map(Ontology("CL").read, (text.strip() for text in texts))
    term_ids = [term if term in model.phenotypes or term in also else "" for term in found]
    for text, term in zip(texts, term_ids, strict=True):
        if not term and as_id(text):
            msg = (
                f"{text!r} reads as an ontology id, but it names no live Cell Ontology term whose "
                "vector is in the model, and digits mean nothing to a text encoder; say in words "
                "what it stands for"
            )
            raise ArgumentError(msg)
    return term_ids


def warn_readings(texts: Sequence[str], term_ids: Sequence[str], model: Model) -> None:
    """Say which texts were read as terms that they are no names of, and which free ones are near.

    Warns
    -----
    ScgpWarning
        One warning for each of the two.
    """
    read = {text.strip(): term for text, term in zip(texts, term_ids, strict=True)}
    Ontology("CL").warn_read(read)
    near = {text: meant for text in read if not read[text] and (meant := _meant(text, model))}
    if near:
        listed = "; ".join(f"{text!r}, did you mean {meant}?" for text, meant in near.items())
        warn_user(f"read as free text, and near the name of a term: {listed}")


def _meant(text: str, model: Model) -> str:
    """Name the terms of the model with names near a text that is no name; "" for none."""
    ontology = Ontology("CL")
    near = [] if ontology.read(text) else ontology.near(text)
    known = [term for term in near if term in model.phenotypes]
    return " or ".join(f"{ontology.label(term)!r} ({term})" for term in known)


def text_vectors(
    texts: Sequence[str], term_ids: Sequence[str], model: Model, encoder: TextEncoder | None
) -> np.ndarray:
    """Return the vectors of the texts (T x W): stored ones of terms, encoded ones of free text.

    A term that the model has no vector of has a zero row. An encoder is made only where a text is
    free and none is given.

    Raises
    ------
    ArgumentError
        The encoder is another than the model's, or there is none for a free text.
    """
    vector_TW = model.phenotypes.vectors(term_ids)
    rows = [t for t, term in enumerate(term_ids) if not term]
    free = list(dict.fromkeys(texts[t] for t in rows))  # each once, that equals stay equal
    encoder = encoder_for(free, model, encoder)
    if encoder is not None and free:
        vector_of = dict(zip(free, encoder.encode(free), strict=True))
        vector_TW[rows] = [vector_of[texts[t]] for t in rows]
    return vector_TW


def encoder_for(
    free: Sequence[str], model: Model, encoder: TextEncoder | None
) -> TextEncoder | None:
    """Return the encoder given, or the model's own where a text is free, or None.

    Raises
    ------
    ArgumentError
        The encoder is another than the model's, or there is none for a free text.
    """
    if encoder is not None:
        _check_encoder(encoder, model)
        return encoder
    return _own_encoder(model, free) if free else None


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
        f"{', '.join(map(repr, free[:_NAMED]))}{more}: no id, label or synonym of a Cell Ontology "
        "term that the model stores, so a text encoder must read it"
    )
    near = {text: meant for text in free[:_NAMED] if (meant := _meant(text, model))}
    if near:
        listed = ", ".join(f"by {text!r} {meant}" for text, meant in near.items())
        need = f"{need} (or did you mean {listed}?)"
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
