"""Cells drawn from published mean profiles; knows nothing of files of real cells or of the model.

Drawn cells widen what a model sees: they carry ontology terms that no labelled cell of the corpus
has. They are marked ``obs["drawn"] = True`` and are never evaluation.

Shape suffixes: P profiles, N drawn cells, G genes, K measured genes that a profile expresses.
"""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgp.errors import ArgumentError, MissingColumnError

LIBRARY = "cellprofilelibrary_human"
HCL = "hcl_ref_2020"
LABELS = "labels_pseudobulk.tsv"
#: Cells drawn of each profile, by file.
CELLS_PER_PROFILE = (20, 8)

#: Collections of the library whose values were averaged after a logarithm. A count cannot be
#: drawn from them: rare transcripts come out too often and abundant ones too seldom.
LOG_COMPRESSED = frozenset(
    {
        "Human_Adult_Brain_AllenBrainAtlas",
        "Human_Adult_Brain_Darmanis",
        "Human_Adult_Colon_HCA",
        "Human_Adult_Liver_HCA",
        "Human_Adult_Skin_HCA",
        "Human_COVID-Infected_Bronchoalveolar_lavage_fluid_COVID19_cellAtlas",
        "Human_COVID-Infected_Covid_Airway_COVID19_cellAtlas",
        "Human_COVID-Infected_Immunodeficiency_Nasal_Swabs_COVID19_cellAtlas",
        "Human_COVID-Infected_Immunodeficiency_PBMCs_COVID19_cellAtlas",
        "Human_COVID-Infected_MGH_Broad_COVID19_cellAtlas",
    }
)
#: Collections whose scale could not be told from their values.
UNDETERMINED = frozenset({"Human_COVID-Infected_PBMCs_COVID19_cellAtlas"})

#: Samples of the Human Cell Landscape that it took from other studies and that are left out: liver
#: of Camp 2017 is log-compressed (in its hepatocytes ALB is no higher than MT1G), and pancreas of
#: Baron 2016 is a mean over cells of the study that ``eval/baron2016_cider`` measures.
LOG_COMPRESSED_SAMPLES = frozenset({"Camp"})
EVALUATED_SAMPLES = frozenset({"Baron"})

#: Clusters whose markers do not belong in their tissue (gut-like cells in a fetal adrenal gland,
#: hepatocytes in spinal cord and pancreas, osteoclasts in spinal cord): their label is in doubt.
IMPLAUSIBLE = frozenset(
    {
        "Epithelial cell_MT1G high_FetalAdrenalGland2",
        "Epithelial cell_CCNB1 high_FetalAdrenalGland2",
        "Epithelial cell_CLCA1 high_FetalAdrenalGland2",
        "Epithelial cell_EDN1 high_FetalAdrenalGland2",
        "Neuroendocrine cell_SST high_FetalAdrenalGland2",
        "Hepatocyte-like cell_FetalSpinalCord1",
        "Hepatocyte-like cell_FetalPancreas2",
        "Osteoclast_FetalSpinalCord1",
    }
)

_LABEL_COLUMNS = [
    "cell_type_ontology_term_id",
    "cell_type",
    "tissue_ontology_term_id",
    "tissue",
    "development_stage",
]


def read_profiles(folder: Path | str) -> list[ad.AnnData]:
    """Read the linear, labelled mean profiles of the project's ``pseudobulk`` folder.

    Left out are profiles without a Cell Ontology term, the log-compressed collections and samples
    (`LOG_COMPRESSED`, `LOG_COMPRESSED_SAMPLES`) and the undetermined one (`UNDETERMINED`), whose
    levels are no counts, clusters that cannot be in their tissue (`IMPLAUSIBLE`), and the
    samples of a study that the benchmark measures (`EVALUATED_SAMPLES`). The other collections
    are linear: those of Descartes, DeMicheli, Guo, Henry and Wang, those of the HCA other than
    colon, liver and skin, and the Human Cell Landscape.

    Parameters
    ----------
    folder
        Holds ``cellprofilelibrary_human.h5ad``, ``hcl_ref_2020.h5ad`` and
        ``labels_pseudobulk.tsv``.

    Returns
    -------
    One AnnData per file, never to be pooled in level. ``X`` float32 CSR, linear mean expression;
    ``obs``: the label columns of the corpus, ``study`` (the collection), ``donor``, ``gene_set``;
    ``varm["measured"]``: one boolean column per ``gene_set``, False where a zero means that the
    gene was not measured. The Human Cell Landscape measures its 5,467 genes and no other.

    Raises
    ------
    ArgumentError
        A file of the folder is missing, or the labels do not name every profile of a file.
    """
    folder = Path(folder)
    names = (f"{LIBRARY}.h5ad", f"{HCL}.h5ad", LABELS)
    if missing := [name for name in names if not (folder / name).is_file()]:
        msg = f"{folder} lacks {', '.join(missing)}; expected the pseudobulk folder with {names}"
        raise ArgumentError(msg)
    labels = pd.read_csv(folder / LABELS, sep="\t", dtype=str, keep_default_na=False)
    return [_labelled(folder, name, labels) for name in (LIBRARY, HCL)]


def read_drawn(folder: Path | str, *, seed: int) -> list[ad.AnnData]:
    """Read the project's profiles and draw from them what the default checkpoint is trained with.

    20 cells of each profile of the library, 8 of each of the narrower Human Cell Landscape.

    Parameters
    ----------
    folder, seed
        As in `read_profiles` and `draw_cells`.

    Returns
    -------
    One AnnData of drawn cells per file.
    """
    return [
        draw_cells(profiles, n_per_profile=n_cells, seed=seed)
        for profiles, n_cells in zip(read_profiles(folder), CELLS_PER_PROFILE, strict=True)
    ]


def _labelled(folder: Path, name: str, labels: pd.DataFrame) -> ad.AnnData:
    """Read one file and keep the profiles that have a term and counts to draw from."""
    profiles = ad.read_h5ad(folder / f"{name}.h5ad")
    of_file = labels[labels["file"] == name].set_index("profile_id")
    if absent := profiles.obs_names.difference(of_file.index).tolist():
        msg = f"{LABELS} has no row for {len(absent)} profiles of {name}, such as {absent[0]!r}"
        raise ArgumentError(msg)
    obs = of_file.loc[profiles.obs_names, _LABEL_COLUMNS].copy()
    if name == HCL:
        obs["study"] = HCL
        obs["donor"] = profiles.obs["sample"].astype(str)
        obs["gene_set"] = "hcl"
        profiles.varm["measured"] = pd.DataFrame({"hcl": True}, index=profiles.var_names)
    else:
        obs["study"] = [profile.partition("|")[0] for profile in profiles.obs_names]
        obs["donor"] = "unknown"
        obs["gene_set"] = profiles.obs["gene_set"].astype(str)
    profiles.obs = obs
    keep_P = (
        (obs["cell_type_ontology_term_id"] != "")
        & ~obs["study"].isin(LOG_COMPRESSED | UNDETERMINED)
        & ~obs["donor"].isin(LOG_COMPRESSED_SAMPLES | EVALUATED_SAMPLES)
        & ~obs.index.isin(IMPLAUSIBLE)
    )
    return profiles[keep_P.to_numpy()].copy()


def draw_cells(
    profiles: ad.AnnData,
    *,
    n_per_profile: int,
    seed: int,
    depth: tuple[float, float] = (600.0, 6000.0),
    gene_noise: float = 0.5,
) -> ad.AnnData:
    """Draw cells of integer counts from mean profiles.

    A cell's expected total is log-uniform in `depth`; its expected counts are the profile over the
    measured genes, each gene multiplied by log-normal noise (the spread between cells of one
    type), scaled to that total; its counts are Poisson.

    Parameters
    ----------
    profiles
        Linear mean expression, profiles x genes, in any unit. With ``varm["measured"]`` (a boolean
        column per gene set) and ``obs["gene_set"]``, genes that a profile's set does not
        measure are not drawn.
    n_per_profile
        Cells to draw from each profile.
    seed
        The same seed and profiles give the same cells.
    depth
        Least and largest expected total count of a cell.
    gene_noise
        Standard deviation of the log of a gene's multiplier; 0 for none.

    Returns
    -------
    ``X`` int32 CSR counts; ``obs`` of the profile for each of its cells, with ``profile`` (its
    name) and ``drawn`` (True); cells of one profile stand together, in the profiles' order.
    ``varm["measured"]`` as the profiles have it.

    Raises
    ------
    ArgumentError
        An argument is out of range, or the profiles are negative or not finite.
    MissingColumnError
        ``varm["measured"]`` is there, but ``obs["gene_set"]`` or a column that it names is not.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> profiles = ad.AnnData(np.array([[5.0, 0.0, 15.0]], dtype="float32"))
    >>> cells = draw_cells(profiles, n_per_profile=4, seed=0)
    >>> cells.shape, bool(cells.obs["drawn"].all()), int(cells.X[:, [1]].sum())
    ((4, 3), True, 0)
    """
    _check_arguments(n_per_profile, depth, gene_noise)
    mean_PG = sp.csr_matrix(profiles.X, dtype=np.float32)
    if not np.isfinite(mean_PG.data).all() or (mean_PG.data < 0).any():
        msg = "profiles hold negative or non-finite values; expected linear mean expression"
        raise ArgumentError(msg)
    measured = measured_genes(profiles)
    streams = np.random.SeedSequence(seed).spawn(profiles.n_obs)
    blocks = []
    for p, stream in enumerate(streams):
        row = mean_PG[p]
        keep_K = (row.data > 0) if measured is None else (row.data > 0) & measured[p][row.indices]
        count_NK = _draw_counts(
            row.data[keep_K], n_per_profile, depth, gene_noise, np.random.default_rng(stream)
        )
        blocks.append(_as_rows(count_NK, row.indices[keep_K], profiles.n_vars))
    empty = sp.csr_matrix((0, profiles.n_vars), dtype=np.int32)
    count_NG = sp.vstack(blocks, format="csr") if blocks else empty
    drawn = ad.AnnData(count_NG, obs=_drawn_obs(profiles, n_per_profile), var=profiles.var.copy())
    if measured is not None:
        drawn.varm["measured"] = pd.DataFrame(profiles.varm["measured"]).copy()
    return drawn


def _check_arguments(n_per_profile: int, depth: tuple[float, float], gene_noise: float) -> None:
    low, high = depth
    if n_per_profile < 1:
        msg = f"n_per_profile is {n_per_profile}; expected at least 1"
        raise ArgumentError(msg)
    if not 0 < low <= high < np.inf:
        msg = f"depth is {depth}; expected (least, largest) with 0 < least <= largest"
        raise ArgumentError(msg)
    if not 0 <= gene_noise < np.inf:
        msg = f"gene_noise is {gene_noise}; expected a finite value >= 0"
        raise ArgumentError(msg)


def measured_genes(profiles: ad.AnnData) -> list[np.ndarray] | None:
    """Return the measured genes of each profile (boolean, G); None where all are."""
    if "measured" not in profiles.varm:
        return None
    table = pd.DataFrame(profiles.varm["measured"])
    if "gene_set" not in profiles.obs:
        msg = f"varm['measured'] needs obs['gene_set']; obs has {list(profiles.obs.columns)}"
        raise MissingColumnError(msg)
    sets = profiles.obs["gene_set"].astype(str)
    if absent := sorted(set(sets) - set(table.columns)):
        msg = f"obs['gene_set'] names {absent[:3]}, but varm['measured'] has no such column"
        raise MissingColumnError(msg)
    column = {name: table[name].to_numpy(dtype=bool) for name in set(sets)}
    return [column[name] for name in sets]


def _draw_counts(
    mean_K: np.ndarray,
    n_cells: int,
    depth: tuple[float, float],
    gene_noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Poisson counts of `n_cells` cells over the expressed genes of one profile (N, K)."""
    total_N = np.exp(rng.uniform(np.log(depth[0]), np.log(depth[1]), size=n_cells))
    noise_NK = rng.standard_normal((n_cells, mean_K.size), dtype=np.float32)
    rate_NK = mean_K * np.exp(np.float32(gene_noise) * noise_NK)
    rate_NK *= (total_N / np.maximum(rate_NK.sum(axis=1), np.finfo(np.float32).tiny))[:, None]
    return rng.poisson(rate_NK)


def _as_rows(count_NK: np.ndarray, gene_K: np.ndarray, n_genes: int) -> sp.csr_matrix:
    """Spread counts over some genes into CSR rows over all, sorted, without explicit zeros."""
    order_K = np.argsort(gene_K)
    cell, column = np.nonzero(count_NK[:, order_K])
    values = count_NK[:, order_K][cell, column].astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum((count_NK > 0).sum(axis=1))])
    return sp.csr_matrix(
        (values, gene_K[order_K][column], indptr), shape=(count_NK.shape[0], n_genes)
    )


def _drawn_obs(profiles: ad.AnnData, n_per_profile: int) -> pd.DataFrame:
    """Rows of the profiles' ``obs``, one per drawn cell, with names that are unique."""
    obs = profiles.obs.iloc[np.repeat(np.arange(profiles.n_obs), n_per_profile)].copy()
    obs["profile"] = obs.index.astype(str)
    obs["drawn"] = True
    obs.index = pd.Index(
        [f"{name}#{k % n_per_profile}" for k, name in enumerate(obs["profile"])], dtype=str
    )
    return obs
