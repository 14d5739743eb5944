"""leave_one_out(): for each unit of an atlas, a reference of the cells of all other units.

Owns the leaving out. Must not know how an index is made (`build`) nor what it is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgp.build import build_index
from scgp.errors import ArgumentError
from scgp.groups import column_text, one_column, say_left_out
from scgp.slots import check_adata

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

    from scgp.model.checkpoint import Model
    from scgp.reference.index import ReferenceIndex


def leave_one_out(
    adata: ad.AnnData,
    *,
    label_key: str,
    unit_key: str,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    use_raw: bool | None = None,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, ReferenceIndex]:
    """Make an index for each unit, of the labelled cells of all other units.

    What is asked of a unit's index about the unit's cells is then asked of cells that it has not
    seen. For :func:`scgp.biomarkers`, of phenotypes that the default reference does not know.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or backed. It is only read.
    label_key, unit_key
        Columns of ``obs``: the labels, and the units (tissue, study, donor), which are the studies
        of the indexes. Cells without a unit, or with a blank one, are in no index.
    model, layer, use_raw, device, progress
        As in :func:`scgp.build_index`.

    Returns
    -------
    An index for each unit, by name, in the order of the alphabet.

    Raises
    ------
    MissingColumnError
        There is no such column.
    ArgumentError
        There are fewer than two units; both keys are one column, or name none or several.
    LabelError, CountsError, GeneError, DeviceError
        As in :func:`scgp.build_index`.

    Warns
    -----
    ScgpWarning
        Cells without a unit. And as in :func:`scgp.build_index`.

    Notes
    -----
    The network was trained beforehand, perhaps on these cells; only the reference leaves them out.
    The indexes have no background (:func:`scgp.build_index`): what the model knows of its own would
    be in all of them, and units that agree would have agreed beforehand.

    Examples
    --------
    >>> import scgp
    >>> adata = scgp.demo.counts()
    >>> adata.obs["cell type"] = adata.obs["bulk_labels"].astype(str).map(
    ...     scgp.demo.BULK_LABEL_TO_CL)
    >>> adata.obs["half"] = ["even" if i % 2 == 0 else "odd" for i in range(adata.n_obs)]
    >>> indexes = leave_one_out(adata, label_key="cell type", unit_key="half", progress=False)
    >>> {unit: index.n_cells for unit, index in indexes.items()}
    {'even': 350, 'odd': 350}
    """
    check_adata(adata)
    one_column(adata, label_key)
    unit_B = column_text(adata, unit_key)
    if label_key == unit_key:
        msg = f"label_key and unit_key are both {unit_key!r}: no label would have cells elsewhere"
        raise ArgumentError(msg)
    say_left_out(np.where(unit_B.isna(), -1, 0), unit_key)
    units = sorted(unit_B.dropna().unique())
    if len(units) < 2:
        msg = f"obs[{unit_key!r}] has {len(units)} unit(s); expected 2 or more, to leave one out"
        raise ArgumentError(msg)
    return {
        unit: build_index(
            adata[(unit_B.notna() & (unit_B != unit)).to_numpy()], label_key=label_key,
            study_key=unit_key, model=model, layer=layer, use_raw=use_raw, background=False,
            device=device, progress=progress,
        )
        for unit in units
    }  # fmt: skip
