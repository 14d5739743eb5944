"""700 real blood cells that ship with scanpy: to try the verbs on, and behind ``make demo``.

Owns the recovery of their counts (`counts`, for users), the map of their labels to Cell Ontology
ids, and all that ``make demo`` prints, writes and draws. In the package only the command line may
import it.

Shape suffixes: N cells, G genes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.errors import ArgumentError, CountsError

if TYPE_CHECKING:
    from pathlib import Path

    from scgp.phenotypes.ontology import Ontology

# The labels of Zheng et al. 2017 (doi:10.1038/ncomms14049) name sorting gates. "Cytotoxic" is the
# authors' word for a gate on CD8 alone; CD34 alone marks progenitors of several lineages.
BULK_LABEL_TO_CL = {
    "CD14+ Monocyte": "CL:0001054",  # CD14-positive monocyte
    "CD19+ B": "CL:0000236",  # B cell
    "CD34+": "CL:0008001",  # hematopoietic precursor cell
    "CD4+/CD25 T Reg": "CL:0000792",  # CD4+ CD25+ regulatory T cell
    "CD4+/CD45RA+/CD25- Naive T": "CL:0000895",  # naive CD4+ T cell
    "CD4+/CD45RO+ Memory": "CL:0000897",  # CD4+ memory T cell
    "CD56+ NK": "CL:0000623",  # natural killer cell
    "CD8+ Cytotoxic T": "CL:0000625",  # CD8+ T cell
    "CD8+/CD45RA+ Naive Cytotoxic": "CL:0000900",  # naive CD8+ T cell
    "Dendritic": "CL:0000451",  # dendritic cell
}
VERDICTS = ("agrees", "less specific", "differs", "unknown")
_TARGET_SUM = 1e4  # scanpy's normalisation of this data set
_LARGEST_RESIDUAL = 0.25  # half-way to the point where rounding would be a guess
_ORIGIN = (
    "These labels are no benchmark: the cells are of donor A of Zheng et al. 2017, and sorted\n"
    "cells of that donor and experiment are part of the corpus the model was trained on."
)


def run(out: Path) -> None:
    """Annotate the cells, print a report, and write a file and a picture.

    Parameters
    ----------
    out
        Folder to write ``pbmc68k_annotated.h5ad`` and ``umap.png`` to; made if missing.

    Raises
    ------
    ArgumentError
        The folder cannot be made: a file has its name.
    CountsError
        The values that scanpy ships are not near whole counts.
    """
    import scgp
    from scgp.phenotypes.ontology import Ontology

    there = next(place for place in (out, *out.parents) if place.exists())
    if not there.is_dir():
        msg = f"{there} is a file; expected the name of a folder to write to"
        raise ArgumentError(msg)
    adata, residual_N = recover_counts(_shipped())
    _say(f"scanpy.datasets.pbmc68k_reduced(): {adata.n_obs} cells, {adata.n_vars} genes")
    _say("counts = round(expm1(.raw) * n_counts / 10,000); distance to a whole number: ")
    _say(f"  at most {residual_N.max():.3f}, below {np.quantile(residual_N, 0.99):.3f} for 99 %\n")
    scgp.annotate(adata)
    _say(summary(adata).to_string(index=False, float_format="{:.2f}".format))
    ontology = Ontology("CL")
    table = agreement(adata, ontology)
    shares = table.sum() / max(int(table.to_numpy().sum()), 1)
    _say("\nagainst the data set's own labels (agrees: the same term or one below it):")
    _say(table.to_string())
    _say("all cells: " + ", ".join(f"{100 * shares[name]:.0f} % {name}" for name in VERDICTS))
    _say(monocyte_markers(adata, table))
    _say(_ORIGIN)
    out.mkdir(parents=True, exist_ok=True)
    _write(adata, out)


def monocyte_markers(adata: ad.AnnData, table: pd.DataFrame) -> str:
    """Say what the markers say of the cells that the data set calls CD14+ monocytes.

    Most of them are called non-classical monocytes here, which express CD16 (FCGR3A) and C1QA;
    classical monocytes express S100A8. CD14 is not among the 765 genes. ``table`` is that of
    `agreement`.
    """
    named = "CD14+ Monocyte"
    rows = (adata.obs["bulk_labels"] == named).to_numpy()
    genes = ["FCGR3A", "C1QA", "S100A8"]
    share = np.asarray((adata[rows, genes].X > 0).mean(axis=0)).ravel()
    shown = ", ".join(f"{gene} in {100 * s:.0f} %" for gene, s in zip(genes, share, strict=True))
    return (
        f"Of the cells that the data set calls CD14+ monocytes, counts of {shown}:\n"
        "by markers they are non-classical (CD16+) monocytes: "
        f"{int(table['differs'][named])} of the {int(table['differs'].sum())} cells of 'differs'."
    )


def counts() -> ad.AnnData:
    """Read the 700 cells with their counts, to try the verbs on.

    Returns
    -------
    A new AnnData: counts of 765 genes (float32 CSR), the data set's own obs and UMAP.

    Examples
    --------
    >>> counts().shape
    (700, 765)
    """
    return recover_counts(_shipped())[0]


def _shipped() -> ad.AnnData:
    import scanpy

    return scanpy.datasets.pbmc68k_reduced()


def recover_counts(
    shipped: ad.AnnData,
) -> tuple[ad.AnnData, np.ndarray[Any, np.dtype[np.float64]]]:
    """Take the log-normalised values of ``.raw`` back to counts.

    Parameters
    ----------
    shipped
        ``.raw`` holds log1p of counts scaled to 10,000 a cell over all genes, and
        ``obs["n_counts"]`` each cell's counts over all genes.

    Returns
    -------
    A new AnnData of counts (float32 CSR; obs and UMAP copied), and each value's distance to the
    whole number it was rounded to.

    Raises
    ------
    CountsError
        A value lies further than 0.25 from every whole number.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> counts = np.array([[1.0, 3.0, 4.0]])
    >>> cells = ad.AnnData(np.log1p(counts / 10 * 1e4))
    >>> cells.obs["n_counts"] = [10.0]
    >>> cells.raw = cells
    >>> recover_counts(cells)[0].X.toarray().tolist()
    [[1.0, 3.0, 4.0]]
    """
    scaled = sp.csr_matrix(shipped.raw.X, dtype=np.float64, copy=True)
    total_N = shipped.obs["n_counts"].to_numpy(dtype=np.float64)
    cell_of_value = np.repeat(np.arange(scaled.shape[0]), np.diff(scaled.indptr))
    value = np.expm1(scaled.data) * total_N[cell_of_value] / _TARGET_SUM
    residual = np.abs(value - np.round(value))
    if residual.size and residual.max() > _LARGEST_RESIDUAL:
        message = (
            f"recovered counts lie up to {residual.max():.2f} from a whole number, expected at "
            f"most {_LARGEST_RESIDUAL}; .raw is not log1p of counts per 10,000 of obs['n_counts']"
        )
        raise CountsError(message)
    scaled.data = np.round(value)
    scaled.eliminate_zeros()
    coordinates = {"X_umap": shipped.obsm["X_umap"].copy()} if "X_umap" in shipped.obsm else {}
    adata = ad.AnnData(
        X=scaled.astype(np.float32),
        obs=shipped.obs.copy(),
        var=pd.DataFrame(index=shipped.raw.var_names.astype(str)),
        obsm=coordinates,
    )
    return adata, residual


def summary(adata: ad.AnnData) -> pd.DataFrame:
    """Count the cells of each answer.

    Parameters
    ----------
    adata
        Annotated cells.

    Returns
    -------
    One row a label: label, ontology id, cells, mean confidence, and how many of them are
    unknown; the most frequent first.
    """
    obs = adata.obs
    table = pd.DataFrame(
        {
            "label": obs["scgp_cell_type"].astype(object).fillna("no label"),
            "ontology id": obs["scgp_cell_type_ontology_term_id"].astype(object).fillna(""),
            "confidence": obs["scgp_confidence"].to_numpy(dtype=float),
            "unknown": (obs["scgp_status"].astype(str) == "unknown").to_numpy(),
        }
    )
    grouped = table.groupby(["label", "ontology id"], sort=True)
    counted = grouped.agg(
        cells=("confidence", "size"),
        mean_confidence=("confidence", "mean"),
        unknown=("unknown", "sum"),
    )
    ranked = counted.reset_index().sort_values("cells", ascending=False, kind="stable")
    return ranked.rename(columns={"mean_confidence": "mean confidence"})


def agreement(adata: ad.AnnData, ontology: Ontology) -> pd.DataFrame:
    """Compare the answers with the data set's own labels, along the ontology.

    Parameters
    ----------
    adata
        Annotated cells with ``obs["bulk_labels"]``.
    ontology
        The Cell Ontology.

    Returns
    -------
    Cells by own label and verdict. "agrees": the given term is the true term or a descendant of
    it; "less specific": an ancestor of it; "differs": any other term; "unknown": no term given.
    """
    true_N = adata.obs["bulk_labels"].astype(str).map(BULK_LABEL_TO_CL)
    given_N = adata.obs["scgp_cell_type_ontology_term_id"].astype(object).fillna("")
    verdict_N = [
        _verdict(true, given, ontology) for true, given in zip(true_N, given_N, strict=True)
    ]
    table = pd.crosstab(adata.obs["bulk_labels"].astype(str).to_numpy(), np.array(verdict_N))
    table = table.reindex(columns=list(VERDICTS), fill_value=0)
    return table.rename_axis(index="own label", columns=None)


def _verdict(true: str, given: str, ontology: Ontology) -> str:
    if not ontology.is_term(given):
        return "unknown"
    if true in ontology.ancestors(given):
        return "agrees"
    return "less specific" if given in ontology.ancestors(true) else "differs"


def _write(adata: ad.AnnData, out: Path) -> None:
    from scgp import pl

    adata.write_h5ad(out / "pbmc68k_annotated.h5ad")
    axes = pl.embedding(adata, basis="umap")
    axes.set_title(f"{adata.n_obs} blood cells of Zheng et al. 2017, labelled by scgp")
    pl.write_picture(axes, out / "umap.png")
    _say(f"\nwrote {out / 'pbmc68k_annotated.h5ad'}\nwrote {out / 'umap.png'}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
