"""What a verb writes into the user's AnnData: all of its slots, or none.

Owns the refusal of what cannot be written to, the writing, and the way back when it fails. Must not
know what the slots mean.
"""

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

import anndata as ad
import pandas as pd

from scgp.errors import ArgumentError, warn_user

#: Stands for a slot that was not there.
_ABSENT = object()


def check_adata(adata: ad.AnnData) -> None:
    """Refuse what is no AnnData, before any work is done."""
    if not isinstance(adata, ad.AnnData):
        msg = f"expected an AnnData, found {type(adata).__name__}"
        raise ArgumentError(msg)


def check_target(adata: ad.AnnData, *, key_added: str, copy: bool) -> None:
    """Refuse what cannot be written to, and names that no file can hold, before any work."""
    check_adata(adata)
    if copy and adata.isbacked:
        msg = "copy=True would read the whole file; use copy=False, or adata.to_memory() first"
        raise ArgumentError(msg)
    if adata.isbacked and adata.is_view:
        msg = "a view of a backed AnnData cannot be written to; call .to_memory() on it first"
        raise ArgumentError(msg)
    check_key(key_added)


def check_key(key_added: str) -> None:
    """Refuse names that no file can hold, or that stand for another place in it."""
    fits = isinstance(key_added, str) and not {"/", "\0"} & set(key_added)
    if not fits or key_added in {"", ".", ".."}:
        msg = f"key_added is {key_added!r}; expected a name without '/', other than '.' and '..'"
        raise ArgumentError(msg)


def check_index_name(adata: ad.AnnData, columns: Collection[str]) -> None:
    """Refuse columns of the name that the index of ``obs`` has: no file can hold both."""
    name = adata.obs.index.name
    if name in columns:
        msg = (
            f"the index of obs has the name {name!r}, and a column of that name would be written: "
            "pass another key_added, or rename it with adata.obs.index.name = None"
        )
        raise ArgumentError(msg)


def write_slots(
    adata: ad.AnnData,
    slots: Mapping[str, Mapping[str, Any]],
    *,
    copy: bool,
    drop: Mapping[str, Collection[str]] | None = None,
) -> ad.AnnData | None:
    """Write all slots; whatever goes wrong, Ctrl-C included, the AnnData is as it was.

    Parameters
    ----------
    adata
        Where to write. A view becomes an AnnData of its own, once all is written, with a warning.
    slots
        Values by name, for each of ``"obs"``, ``"obsm"`` and ``"uns"``.
    copy
        Write to a copy instead, and return it.
    drop
        Names of slots that are removed, of each place, where they are there.
    """
    if not (copy or adata.is_view):
        _assign(adata, slots, drop or {})
        return None
    if not copy:
        warn_user(
            "this AnnData is a view of another, which stays as it is: what is written is kept in "
            "this one alone, which becomes a copy. Give it a name, or pass adata[...].copy(), or "
            "copy=True, and keep what comes back"
        )
    whole = adata.copy()
    _assign(whole, slots, drop or {})
    if copy:
        return whole
    adata._init_as_actual(whole)
    return None


def _assign(
    adata: ad.AnnData,
    slots: Mapping[str, Mapping[str, Any]],
    drop: Mapping[str, Collection[str]],
) -> None:
    """Assign every slot, or bring back what stood in each, and nothing where nothing stood."""
    places: dict[str, MutableMapping[str, Any]] = {name: getattr(adata, name) for name in slots}
    gone = [(places[place], name) for place in drop for name in drop[place]]
    gone = [(held, name) for held, name in gone if name in held]
    before = [
        (places[place], name, places[place].get(name, _ABSENT))
        for place, named in slots.items()
        for name in named
    ]
    removed = [(held, list(held).index(name), name, held[name]) for held, name in gone]
    try:
        for place, named in slots.items():
            for name, value in named.items():
                places[place][name] = value
        for held, name in gone:
            _remove(held, name)
    except BaseException:  # Ctrl-C between two assignments, too
        for held, name, old in before:
            if old is not _ABSENT:
                held[name] = old
            elif name in held:
                _remove(held, name)
        for held, position, name, old in sorted(removed, key=lambda item: item[1]):
            if name not in held:
                _put_back(held, position, name, old)
        raise


def _remove(held: Any, name: str) -> None:
    """Remove a slot; a table of anndata.experimental.read_lazy does so from its dataset alone."""
    place = held.ds if hasattr(held, "to_memory") else held
    del place[name]


def _put_back(held: MutableMapping[str, Any], position: int, name: str, value: Any) -> None:
    """Assign what was removed, in a table at the place where it stood."""
    if isinstance(held, pd.DataFrame):
        held.insert(position, name, value)
    else:
        held[name] = value
