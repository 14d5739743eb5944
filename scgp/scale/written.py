"""What is written into a file: the slots of annotate(), their vectors block by block.

Owns where each slot lies in a file of anndata, for HDF5 and zarr alike. Knows neither which of the
two it is, nor how either is changed in one step.

Shape suffixes: B cells of a block, E width of the joint space.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np

from scgp.answer_columns import column_names, left_over

#: How anndata marks a dense array.
ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}


@dataclass(frozen=True)
class Slots:
    """What is written.

    Attributes
    ----------
    key_added
        Prefix of the slots.
    columns
        Columns of ``obs`` by name.
    facts
        What ``uns[key_added]`` becomes.
    shape
        Shape of ``obsm["X_" + key_added]``; None: it is not written.
    vectors
        Gives its rows in order, block by block: position of the first, and B x E float32.
    """

    key_added: str
    columns: Mapping[str, Any]
    facts: Mapping[str, Any]
    shape: tuple[int, int] | None = None
    vectors: Callable[[], Iterator[tuple[int, np.ndarray]]] | None = None

    @property
    def vectors_key(self) -> str:
        """Name of the vectors in ``obsm``."""
        return f"X_{self.key_added}"

    def write_columns(self, obs: Any) -> None:
        """Write the columns into a group, without saying that the table has them.

        Those of an earlier call that are not written anew are for the caller to remove (`gone`).
        """
        for name, values in self.columns.items():
            if name in obs:
                del obs[name]
            ad.io.write_elem(obs, name, values, dataset_kwargs=_settings(obs))

    def write_facts(self, uns: Any) -> None:
        """Write ``uns[key_added]`` into a group."""
        if self.key_added in uns:
            del uns[self.key_added]
        ad.io.write_elem(uns, self.key_added, dict(self.facts), dataset_kwargs=_settings(uns))

    def fill(self, array: Any, check: Callable[[], object] = lambda: None) -> None:
        """Write the vectors into an array of a file; `check` is called after each block."""
        for start, cell_BE in self.vectors() if self.vectors is not None else ():
            array[start : start + len(cell_BE)] = cell_BE
            check()

    def order(self, before: Any) -> list[str]:
        """Return the names of all columns of ``obs``: those before, and the new ones."""
        gone = self.gone(before)
        names = [str(name) for name in before if name not in gone]
        return [*names, *(name for name in self.columns if name not in names)]

    def gone(self, before: Any) -> list[str]:
        """Return the names of the columns that an earlier call wrote, and this one does not."""
        return left_over(self.columns, self.key_added, [str(name) for name in before])


def slots_of(adata: ad.AnnData, key_added: str, *, vectors: bool) -> Slots:
    """Return what `annotate` wrote into an AnnData: arrays, and categoricals.

    Without `vectors`, as after ``use_rep``, those in ``obsm`` are not among it.
    """
    names = column_names(key_added)
    columns = {str(name): adata.obs[name].values for name in adata.obs if name in names}
    facts = adata.uns[key_added]
    if not vectors:
        return Slots(key_added, columns, facts)
    cell_BE = adata.obsm[f"X_{key_added}"]
    return Slots(key_added, columns, facts, cell_BE.shape, lambda: iter([(0, cell_BE)]))


def _settings(group: Any) -> dict[str, Any]:
    """Ask for plain chunks in zarr 3, where anndata warns that its default will be others."""
    third = getattr(getattr(group, "metadata", None), "zarr_format", None) == 3
    return {"shards": None} if third else {}
