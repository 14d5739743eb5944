"""The progress bar of the long loops; the only file that imports tqdm, and only to draw."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(
    total: int | None, *, what: str, unit: str, shown: bool
) -> Iterator[Callable[[int], object]]:
    """Give a function that moves the bar on; one that does nothing where no bar is shown.

    tqdm is imported here: in a notebook without ipywidgets its import warns.
    """
    if not shown:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit=unit) as bar:
        yield bar.update
