"""predict_expression(): what a description of a cell type implies that its cells express.

Owns how texts, tissues and genes are named, and what is returned. Must not know how a text becomes
a vector (`texts`), what makes labels and tissues alike (`what_if.alike`), how a profile follows
from that (`reference.profiles`), nor what stands behind it (`what_if.support`).

Shape suffixes: D descriptions, W width of the text encoder, U known labels, P groups, V genes
asked for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scgp.cells.named import named_genes, told_unknown
from scgp.cells.vocabulary import GeneVocabulary
from scgp.embed import resolve_model
from scgp.errors import ArgumentError, CheckpointError, GeneError
from scgp.model.checkpoint import Model
from scgp.own import model_index
from scgp.phenotypes.text import TextEncoder
from scgp.reference.index import ReferenceIndex
from scgp.reference.profiles import Profiles
from scgp.texts import listed, read_terms, text_vectors, warn_readings
from scgp.tissues import read_tissues
from scgp.what_if.alike import label_likeness, tissue_likeness, usual_tissues
from scgp.what_if.support import support, warn_unlike
from scgp.what_if.within_tissue import tissue_means
from scgp.which import opened

#: Names that a message lists.
_NAMED = 5


def predict_expression(
    texts: str | Sequence[str],
    *,
    tissue: str | Sequence[str] | None = None,
    genes: str | Iterable[str] | None = None,
    model: Model | str | Path | None = None,
    index: ReferenceIndex | str | Path | None = None,
    encoder: TextEncoder | None = None,
) -> ad.AnnData:
    """Predict the mean expression that descriptions of cell types imply.

    Parameters
    ----------
    texts
        One text, or a list of them: ids, names or synonyms of Cell Ontology terms ("CL:0000623",
        "natural killer cell", "NK cells"), or free text; read as :func:`scgp.score_text` does.
    tissue
        Where the cells are: an UBERON id or name ("liver"), one for all texts or one each. None:
        the tissues that labels like the one described are known from, which is less accurate.
    genes
        HGNC symbols or Ensembl ids, in the order wanted; None for all genes that are known.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    index
        The reference whose mean profiles are drawn on: an index of the same model, or its
        directory. None: the model's own.
    encoder
        As in :func:`scgp.score_text`, for free text.

    Returns
    -------
    A new AnnData, texts x genes.

    ``X`` : float32
        Predicted log1p(CP10k) of the mean over cells; never negative.
    ``layers["deviation"]`` : float32
        ``X`` less the mean profile: what sets type and tissue apart from all others. It holds what
        all profiles of a tissue hold, such as surfactant in T cells of the lung.
    ``layers["within_tissue"]`` : float32
        ``X`` less the mean of ``X`` over the labels known from the same tissue, predicted for it:
        what sets the type apart from its neighbours. Where fewer than five are, the mean is over
        all known labels, predicted for that tissue. NaN where no tissue is asked for.
    ``obs`` : DataFrame
        ``text``; ``ontology_term_id``, the term it was read as ("" for free text);
        ``tissue_ontology_term_id`` and ``tissue`` ("" for none); ``n_profiles`` (int32), groups of
        exactly this label and tissue (of the label, where no tissue is asked for): 0 for a pair
        that was never seen; the known label that is most alike, ``nearest_label`` and
        ``nearest_ontology_term_id``; ``nearest_likeness`` (float32), 1 where it is the label
        itself, whatever the tissue. Free text has no ancestors and markers: it is at most 0.5. Of
        the tissues that this label is known from the one most like that asked for,
        ``nearest_tissue`` and ``nearest_tissue_ontology_term_id``, and ``nearest_tissue_likeness``
        (float32), 1 where it is the same ("" and NaN where no tissue is asked for or known).
        ``n_labels_within`` (int32), labels in the mean of ``layers["within_tissue"]``.
    ``var`` : DataFrame
        ``symbol``, ``ensembl_id``, ``mean`` (float32, the mean profile) and ``n_groups``, the
        groups of label, tissue and source that measure the gene. Named as asked for.
    ``uns["scgp_expression"]`` : dict
        ``model``: its fingerprint; ``n_groups`` of label, tissue and source that were drawn on.

    Raises
    ------
    ArgumentError
        No text, a blank one, or an id that the model has no vector of; a tissue that is no term of
        UBERON; no gene; free text without an encoder, or with another than the model's; an index
        without mean profiles (made before 0.8.0, or of a representation).
    GeneError
        A gene is not in the vocabulary, or nothing measures it; two names are of one gene.
    CheckpointError, FingerprintError
        The index cannot be read, or another model made it.

    Warns
    -----
    ScgpWarning
        Texts that are no name of the ontology and were read as a term; free text that is near
        the name of one; free text whose likeness to every known label is below 0.25.

    Notes
    -----
    Kernel ridge regression from descriptions (text, ancestors and marker genes of the label; text
    and ancestors of the tissue) to mean profiles of known types, the closed form of Romera-Paredes
    and Torr 2015 (An embarrassingly simple approach to zero-shot learning). A prediction is drawn
    towards the mean profile, the more so the less is like the description: compare genes and
    types by it, and do not take it for a measurement. For types that were never shown the
    correlation of deviations with measured ones is in ``benchmarks/results/predict_expression.md``.

    Examples
    --------
    >>> import scgp
    >>> cells = ["endothelial cell", "CL:0000182"]
    >>> said = scgp.predict_expression(cells, tissue="liver", genes=["VWF", "ALB"])
    >>> said.obs["ontology_term_id"].tolist()
    ['CL:0000115', 'CL:0000182']
    >>> said[:, "ALB"].X.argmax(), said[:, "VWF"].X.argmax()
    (np.int64(1), np.int64(0))
    """
    given = listed(texts)
    model = resolve_model(model)
    profiles = _profiles(index, model)
    tissue_ids = _tissues(tissue, len(given), profiles)
    names, column_V = _columns(genes, model.genes, profiles)
    term_ids = read_terms(given, model)
    vector_DW = text_vectors(given, term_ids, model, encoder)
    warn_readings(given, term_ids, model)
    likeness_DP, share_DU, labels = label_likeness(term_ids, vector_DW, profiles.label_ids, model)
    tissue_DP = tissue_likeness(tissue_ids, profiles.tissue_ids, model)
    said = support(
        given, term_ids, tissue_ids, profiles, labels, share_DU=share_DU, tissue_DP=tissue_DP
    )
    anywhere = [d for d, term in enumerate(tissue_ids) if not term]
    tissue_DP[anywhere] = usual_tissues(likeness_DP[anywhere], profiles.tissue_ids, model)
    mean_V = profiles.mean_G[column_V]
    apart_DV = profiles.deviation(likeness_DP, tissue_DP, column_V, term_ids=term_ids)
    value_DV = np.maximum(mean_V + apart_DV, 0)
    within_DV, n_within_D = tissue_means(tissue_ids, profiles, column_V, model)
    warn_unlike(said)
    return ad.AnnData(
        value_DV,
        obs=said.assign(n_labels_within=n_within_D),
        var=pd.DataFrame(
            {
                "symbol": model.genes.symbol[column_V],
                "ensembl_id": model.genes.ensembl[column_V],
                "mean": mean_V,
                "n_groups": profiles.n_groups_G[column_V],
            },
            index=pd.Index(names, dtype=object),
        ),
        layers={"deviation": value_DV - mean_V, "within_tissue": value_DV - within_DV},
        uns={
            "scgp_expression": {"model": model.fingerprint, "n_groups": len(profiles.label_ids)},
        },
    )


def _profiles(index: ReferenceIndex | str | Path | None, model: Model) -> Profiles:
    """Return the mean profiles of the index, or of the model's own."""
    source = model_index(model) if index is None else opened(index, model.fingerprint)
    found = source.profiles
    if found is None:
        msg = (
            "the index has no mean profiles: it was made before scgp 0.8.0, or none of its labels "
            "is a Cell Ontology term of 10 cells or more. Make it anew with scgp.build_index(adata,"
            " label_key=..., tissue_key=...), or pass another index="
        )
        raise ArgumentError(msg)
    if len(found.mean_G) != model.config.n_genes:
        msg = (
            f"the mean profiles of the index are of {len(found.mean_G)} genes, and the model has "
            f"{model.config.n_genes}; make the index anew"
        )
        raise CheckpointError(msg)
    return found


def _tissues(tissue: str | Sequence[str] | None, n_texts: int, profiles: Profiles) -> Sequence[str]:
    """Return the UBERON id of the tissue of each text, "" for none."""
    if tissue is None:
        return [""] * n_texts
    given = listed(tissue, "tissue")
    if len(given) not in (1, n_texts):
        msg = f"tissue has {len(given)} names for {n_texts} texts; pass one, or one each"
        raise ArgumentError(msg)
    ids = read_tissues(given, profiles.tissue_ids)
    return ids * n_texts if len(ids) == 1 else ids


def _columns(
    genes: str | Iterable[str] | None, vocabulary: GeneVocabulary, profiles: Profiles
) -> tuple[list[str], np.ndarray]:
    """Return the genes asked for, as named, and their columns of the vocabulary."""
    if genes is None:
        column_V = np.flatnonzero(profiles.n_groups_G)
        symbol_V = pd.Series(vocabulary.symbol[column_V], dtype=object)
        id_V = pd.Series(vocabulary.ensembl[column_V], dtype=object)
        twice_V = symbol_V.duplicated(keep=False) | (symbol_V == "")
        return symbol_V.where(~twice_V, id_V).tolist(), column_V
    if not isinstance(genes, Iterable):
        msg = f"genes is {genes!r}; expected a name such as 'VWF', or several"
        raise ArgumentError(msg)
    names = listed(genes if isinstance(genes, str) else list(genes), "genes")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        msg = f"genes names {twice[0]!r} more than once; name each gene once"
        raise ArgumentError(msg)
    match = vocabulary.match(names)
    if match.unmatched:
        shown = "; ".join(told_unknown(x, vocabulary.symbol) for x in match.unmatched[:_NAMED])
        more = len(match.unmatched) - _NAMED
        msg = f"genes not in the vocabulary of the model: {shown}"
        raise GeneError(msg + (f"; and {more} more" if more > 0 else ""))
    column_V = named_genes(names, vocabulary)  # refuses two names of one gene
    if len(silent := np.flatnonzero(profiles.n_groups_G[column_V] == 0)):
        shown = ", ".join(names[v] for v in silent[:_NAMED])
        msg = (
            f"no mean profile of the index measures {shown}"
            + (" and others" if len(silent) > _NAMED else "")
            + ": nothing can be said of their expression. Leave them out"
        )
        raise GeneError(msg)
    return names, column_V
