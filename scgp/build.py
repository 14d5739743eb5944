"""build_index(): an atlas of labelled cells becomes a reference.

Owns the reading of labels and studies, and which ontology term a label is. Must not know how an
index answers, nor what is written into an AnnData: the atlas is only read.

Shape suffixes: B cells, E width of the joint space, T terms, D width of their vectors.
"""

import dataclasses
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.cells.no_label import label_text, told_words
from scgp.cells.sampling import at_most
from scgp.cells.tokens import TokenBatch
from scgp.describe import uses_descriptions, with_descriptions
from scgp.embed import CellVectors, embed_adata, resolve_model
from scgp.errors import LabelError, MissingColumnError, warn_user
from scgp.groups import no_column, one_column
from scgp.model.checkpoint import Model
from scgp.number import whole_number
from scgp.own import own_index
from scgp.phenotypes.ontology import Ontology, as_id
from scgp.reference.background import WEIGHT, Background
from scgp.reference.contents import OBSM
from scgp.reference.fusion import Fusion
from scgp.reference.gene_head import CELLS, fit_gene_head
from scgp.reference.index import ReferenceIndex
from scgp.reference.interferon import stimulated
from scgp.reference.pairwise import fit_pairwise
from scgp.reference.store import check_search
from scgp.representation import (
    DEFAULT,
    centre_of,
    fit_fusion,
    read_representation,
    refuse_unused,
    unit_vectors,
    warn_uncalibrated,
)
from scgp.slots import check_adata
from scgp.training.mean_profiles import AveragedCells, make_profiles


def build_index(
    adata: ad.AnnData,
    *,
    label_key: str,
    model: Model | str | Path | None = None,
    study_key: str | None = None,
    tissue_key: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    background: bool = True,
    search: str = "auto",
    batch_size: int = 1024,
    device: str | None = None,
    progress: bool = True,
) -> ReferenceIndex:
    """Make a reference of labelled cells.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory or backed. With `use_rep` counts are not needed.
    label_key
        ``obs`` column with the labels: Cell Ontology ids, their labels or synonyms, short names
        that authors use ("CD4+ T cells"; a warning tells how they were read), or any text.
        Cells without a label, and cells without a count (with `use_rep`: zero rows), are left out.
        Words that say there is none ("unknown", "unassigned", "unannotated", "nan", "None", "NA",
        "not available"; in any case) are no label; a warning tells which were found.
    model
        A :class:`scgp.Model`, its directory, or None for the default checkpoint.
    study_key
        ``obs`` column with the study of each cell, kept in the index. Words that say there is no
        label say the same of a study; such cells are of none. The gene head counts less
        what separates the studies of one label from each other, and where there are two or more,
        the likeliest labels are compared once more over the genes that set them apart (the pairwise
        stream). With `use_rep` the column is also what the confidence is fitted on: two studies or
        more are held out in turn. If all cells are of one study, name the column of donors.
    tissue_key
        ``obs`` column with the tissue of each cell, UBERON ids or names; what is none counts as
        unknown. :func:`scgp.predict_expression` then tells tissues apart. Not with `use_rep`.
    use_rep
        Key in ``obsm`` of a representation of your own, cells x E, such as ``"X_scVI"``, which the
        cells to be annotated must have too; instead of the vectors of a model. There are then two
        streams of evidence, neighbours and the linear head.
    background
        Whether all terms that the model was trained on have a say beside the labels of the
        reference, as a stream of evidence and to tell cells of types that the reference lacks.
        Without, these cells alone answer, as up to 0.10.0. There is none with `use_rep`, nor for a
        model that has no reference of its own.
    search
        ``"exact"`` compares a cell with all of the reference, ``"lists"`` with those that are
        likely to be near; ``"auto"`` is the first up to 50,000 cells.
    layer, use_raw, batch_size, device, progress
        As in :func:`scgp.annotate`. The first two, `model` and `device` cannot go with `use_rep`.

    Returns
    -------
    The index; keep it with ``index.save("atlas.scgp")``.

    Raises
    ------
    MissingColumnError
        There is no column `label_key`, `study_key` or `tissue_key`.
    LabelError
        No cell has a label.
    ArgumentError
        `use_rep` names nothing in ``obsm``, or what is not cells x E of finite numbers; or an
        argument has a value that cannot be used.
    CountsError, GeneError, DeviceError
        As in :func:`scgp.annotate`.
    CheckpointError, FingerprintError
        With `background`: the model's own reference cannot be read, or is not its own.

    Warns
    -----
    ScgpWarning
        Cells without a label. Labels that are no ontology term: they are kept as given, without an
        id. With `use_rep`: the confidence could not be calibrated.
    """
    check_adata(adata)
    check_search(search)
    if use_rep is not None:
        refuse_unused(
            model=model, layer=layer, use_raw=use_raw, device=device, tissue_key=tissue_key
        )
        return _of_representation(adata, use_rep, label_key, study_key, search)
    whole_number(batch_size, "batch_size", least=1)
    model = resolve_model(model)
    labels = _labels(adata, label_key)
    studies = None if study_key is None else _studies(adata, study_key)
    tissues = None if tissue_key is None else _column(adata, tissue_key)
    own = own_index(model) if background else None  # what is wrong with it is said first
    chosen_B = _chosen(labels, studies)
    values: list[sp.csr_matrix] = []
    averaged = AveragedCells(model, labels, tissues, studies)

    def watch(first: int, tokens: TokenBatch, _: CellVectors, measured_G: np.ndarray) -> None:
        rows = np.flatnonzero(chosen_B[first : first + tokens.n_cells])
        value_BG = tokens.values(model.config.n_genes)
        values.append(value_BG[rows])
        averaged.add(first, value_BG, measured_G)

    vectors, _ = embed_adata(
        adata, model, layer=layer, use_raw=use_raw, batch_size=batch_size, device=device,
        progress=progress, watch=watch,
    )  # fmt: skip
    kept = np.flatnonzero(labels.notna().to_numpy() & (vectors.total_B > 0))
    if not len(kept):
        raise _nothing_left(labels, label_key, "a count")
    names, ids = _terms(labels.to_numpy(dtype=object)[kept], label_key)
    order = sorted(set(names))
    id_of = dict(zip(names, ids, strict=True))
    label_ids = [id_of[name] for name in order]
    code_B = np.full(adata.n_obs, -1)
    code_B[kept] = np.searchsorted(order, names)
    code_N = code_B[chosen_B]  # -1 for a chosen cell without a count
    used_N = code_N >= 0
    value_NG = sp.vstack(values, format="csr")[used_N]
    study_N = None if studies is None else pd.factorize(studies)[0][chosen_B][used_N]
    head = fit_gene_head(value_NG, code_N[used_N], len(order), study_N=study_N)
    pairwise = None
    if (
        study_N is not None and len(np.unique(study_N[study_N >= 0])) > 1
    ):  # of one, it gains nothing (docs/log.md)
        gene_H = np.setdiff1d(head.gene_H, stimulated(model.genes))
        pairwise = fit_pairwise(value_NG, code_N[used_N], gene_H, study_N=study_N)
    likeness_TT = None
    if uses_descriptions(model.details.get("calibration")):
        head, likeness_TT = with_descriptions(head, label_ids, model)
    calibration = _calibration(model)
    beside = _background(own, calibration, label_ids, vectors.type_BE[kept], code_B[kept])
    if calibration is not None and beside is not None:
        calibration = dataclasses.replace(calibration, weight_background=WEIGHT)
    return ReferenceIndex.build(
        vectors.cell_BE[kept],
        names,
        label_ids=label_ids,
        studies=None if studies is None else studies.to_numpy(dtype=object)[kept].tolist(),
        text_TD=model.project_terms(label_ids),
        model_fingerprint=model.fingerprint,
        calibration=calibration,
        background=beside,
        gene_head=head,
        likeness_TT=likeness_TT,
        profiles=make_profiles(model, [averaged.rows()]),
        pairwise=pairwise,
        search=search,
    )


def _background(
    own: ReferenceIndex | None,
    calibration: Fusion | None,
    label_ids: list[str],
    type_NE: np.ndarray,
    code_N: np.ndarray,
) -> Background | None:
    """Return what the terms that the model was trained on say beside these labels.

    None for a model that was not calibrated, or has no reference of its own.
    """
    if own is None or calibration is None:
        return None
    return Background.make(
        own.label_ids, own.text_TD, label_ids=label_ids, type_ND=type_NE, code_N=code_N,
        temperature=calibration.temperature_text,
    )  # fmt: skip


def _of_representation(
    adata: ad.AnnData, use_rep: str, label_key: str, study_key: str | None, search: str
) -> ReferenceIndex:
    """Index what stands in obsm, as it is: no model, no counts."""
    matrix_BE = read_representation(adata, use_rep)
    labels = _labels(adata, label_key)
    studies = None if study_key is None else _studies(adata, study_key)
    labelled = np.flatnonzero(labels.notna())
    centre_E = centre_of(matrix_BE[labelled])
    vector_BE = unit_vectors(matrix_BE[labelled], centre_E).cell_BE
    filled_B = np.any(vector_BE, axis=1)
    kept, vector_NE = labelled[filled_B], vector_BE[filled_B]
    if not len(kept):
        what = f"a vector in obsm[{use_rep!r}] that tells it from the others"
        raise _nothing_left(labels, label_key, what)
    names, ids = _terms(labels.to_numpy(dtype=object)[kept], label_key)
    id_of = dict(zip(names, ids, strict=True))
    order = sorted(id_of)
    label_ids = [id_of[name] for name in order]
    fusion = None
    if studies is not None:
        code_N = np.searchsorted(order, names)
        fusion = fit_fusion(vector_NE, code_N, pd.factorize(studies.iloc[kept])[0], label_ids)
    index = ReferenceIndex.build(
        vector_NE,
        names,
        label_ids=label_ids,
        studies=None if studies is None else studies.to_numpy(dtype=object)[kept].tolist(),
        model_fingerprint=f"{OBSM}{use_rep}",
        calibration=fusion or DEFAULT,
        centre_D=centre_E,
        search=search,
    )
    warn_uncalibrated(index)
    return index


def _chosen(labels: pd.Series, studies: pd.Series | None) -> np.ndarray:
    """Return which cells the gene head is fitted to: some of each label and study."""
    label_B = pd.factorize(labels)[0]
    study_B = np.zeros_like(label_B) if studies is None else pd.factorize(studies)[0]
    labelled = np.flatnonzero(label_B >= 0)
    most = CELLS if studies is not None else 2 * CELLS
    rows = at_most(most, label_B[labelled], study_B[labelled], np.random.default_rng(0))
    chosen_B = np.zeros(len(label_B), dtype=bool)
    chosen_B[labelled[rows]] = True
    return chosen_B


def _calibration(model: Model) -> Fusion | None:
    """Return the fusion that was fitted when the model was trained, as far as it holds here.

    Without the masses of label sets: what they promise was measured on another reference. And
    without the bound of text novelty: how near a known cell comes to a text depends on which
    labels there are, and on 120 cells of blood the bound cost one B cell in five.
    """
    fitted = model.details.get("calibration")
    if fitted is None:
        return None
    fusion = Fusion.from_dict(fitted)
    return dataclasses.replace(fusion, novelty_text=-1.0, set_mass=(), set_cells=0)


def _column(adata: ad.AnnData, key: str) -> pd.Series:
    if isinstance(key, str) and key not in adata.obs:
        msg = f"the reference's {no_column(key, adata.obs.columns)}"
        raise MissingColumnError(msg)
    return one_column(adata, key)


def _studies(adata: ad.AnnData, study_key: str) -> pd.Series:
    """Return studies as text, missing where there is none; words that say so are told."""
    given = _column(adata, study_key)
    text = label_text(given)
    if words := told_words(given):
        n_missing = int(text.isna().sum())
        warn_user(
            f"{n_missing} of {len(text)} cells are of no study in obs[{study_key!r}] ({words})"
        )
    return text


def _nothing_left(labels: pd.Series, label_key: str, what: str) -> LabelError:
    """Return the error of a reference without a cell that can be used."""
    return LabelError(
        f"no cell has both a label in obs[{label_key!r}] and {what}: {int(labels.notna().sum())} "
        f"of {len(labels)} have a label. Pass the column that names the cell types as label_key "
        "(words such as 'unknown' are no label), and cells that have both"
    )


def _labels(adata: ad.AnnData, label_key: str) -> pd.Series:
    """Return labels as text, missing where there is none, with a word about how many."""
    given = _column(adata, label_key)
    text = label_text(given)
    n_missing = int(text.isna().sum())
    if n_missing:
        words = told_words(given)
        warn_user(
            f"{n_missing} of {len(text)} cells have no label in obs[{label_key!r}]: left out"
            + (f" ({words})" if words else "")
        )
    return text


def _terms(labels: np.ndarray, label_key: str) -> tuple[list[str], list[str]]:
    """Name every label by its term, where it is one; one warning for those that are none.

    Several names of one term become its most frequent one, and are told.
    """
    ontology = Ontology("CL")
    names, count = np.unique(labels.astype(str), return_counts=True)
    id_of = dict(zip(names.tolist(), ontology.resolve(names.tolist()), strict=True))
    unique = names[np.argsort(-count, kind="stable")].tolist()
    unknown = sorted(label for label in unique if not id_of[label])
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
        warn_user(
            f"{len(unknown)} of {len(unique)} labels in obs[{label_key!r}] are no Cell Ontology "
            f"term: {shown}. They are kept as given, without an id"
        )
    # an id is named by its label; a name stays as the user wrote it
    name_of = {x: ontology.label(id_of[x]) if as_id(x) == id_of[x] != "" else x for x in unique}
    first: dict[str, str] = {}
    for label in unique:
        name_of[label] = first.setdefault(id_of[label] or label, name_of[label])
    joined = [
        f"{x!r} as {name_of[x]!r}" for x in unique if name_of[x] != x and as_id(x) != id_of[x]
    ]
    if joined:
        warn_user(f"names of one term in obs[{label_key!r}] become one label: {', '.join(joined)}")
    return [name_of[x] for x in labels], [id_of[x] for x in labels]
