"""score_text(): how well texts describe each cell.

Owns the score and its slots. Must not know how cells are embedded (`embed`), how a text becomes a
vector (`texts`) or how slots are written (`slots`).

Shape suffixes: B cells, T texts, W width of the text encoder, G genes.
"""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np

from scgp.cells.tokens import TokenBatch
from scgp.describe import describe
from scgp.embed import CellVectors, embed_adata, resolve_model, warn_empty
from scgp.model.checkpoint import Model
from scgp.own import own_index
from scgp.phenotypes.text import TextEncoder
from scgp.slots import check_target, write_slots
from scgp.texts import listed, read_terms, text_vectors, warn_readings

#: What a cosine counts beside a score of genes: the spread of the two over cells is then about
#: equal. Chosen on terms held out of training; from 2 to 8 it hardly matters.
COSINE_WEIGHT = 4.0


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
    """Score how well each text describes each cell, by its vector and by its genes.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. Genes by HGNC symbol or Ensembl id.
    texts
        One text, or a list of them. A text that is an id, a label or a synonym of the Cell Ontology
        ("CL:0000623", "natural killer cell", "NK cell"), or the way in which authors write one ("NK
        cells", "CD4+ T cell"), is read as that term, whose vector the model stores. Any other is
        free text. A text given twice has two equal columns.
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
        The score of each text, in the order of `texts`; of no unit, zero rows for cells without a
        count. No probability: compare cells within one column.
    ``uns["scgp_text"]`` : dict
        ``texts`` as given and ``ontology_term_ids``, the term that each was read as ("" for free
        text): lists, which a file gives back as arrays; ``scored_by_genes``, whether genes have a
        part in the score. Model, counts and genes that were used.

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
        Few genes in common, duplicated genes (summed), empty cells. Texts that are no name of the
        ontology and were read as a term, and free text that is near the name of one.

    Notes
    -----
    The score is the sum of two: how the cell's genes fit the gene weights that are predicted for
    the text (from the types that the model's own reference has, by likeness of text and, for a
    term, of ancestors and marker genes, and from known markers of a term; "How annotation works" in
    the documentation), and four times the cosine between the cell's type vector and the text. With
    a model that has no reference of its own it is the latter alone.

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
    given = listed(texts)
    model = resolve_model(model)
    term_ids = read_terms(given, model)
    # before the cells are embedded, which takes longer than to find that an encoder is missing
    vector_TW = text_vectors(given, term_ids, model, encoder)
    warn_readings(given, term_ids, model)
    head = describe(term_ids, vector_TW, model, own_index(model))
    parts: list[np.ndarray] = []

    def watch(_: int, tokens: TokenBatch, __: CellVectors, measured_G: np.ndarray) -> None:
        if head is not None:
            parts.append(head.scores(tokens.values(model.config.n_genes), measured_G))

    vectors, facts = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress, watch=watch,
    )  # fmt: skip
    warn_empty(vectors, "their scores are zero")
    # not by a product of matrices, which rounds by the number of rows: company does not matter
    cosine_BT = np.einsum("be,te->bt", vectors.type_BE, model.project_vectors(vector_TW))
    score_BT = COSINE_WEIGHT * cosine_BT
    if parts:
        score_BT += np.where(vectors.total_B[:, None] > 0, np.concatenate(parts), 0)
    facts |= {"texts": given, "ontology_term_ids": term_ids, "scored_by_genes": head is not None}
    slots: dict[str, dict[str, object]] = {
        "obsm": {key_added: score_BT.astype(np.float32)},
        "uns": {key_added: facts},
    }
    return write_slots(adata, slots, copy=copy)
