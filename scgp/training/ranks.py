"""Several processes that take one training step together: which cells are whose; no loop, no files.

The batch of a step is the same whatever the number of processes. Each computes its own cells, the
vectors are gathered, and every process has the loss of the whole batch: so losses that compare
cells with each other are those of one process, and nothing needs to be averaged.

Shape suffixes: B cells of the whole batch, b cells of this process.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own idiom)


class Ranks:
    """A process among those that train together.

    Parameters
    ----------
    rank, size
        Number of this process, and how many there are.

    Examples
    --------
    >>> [Ranks(rank, 3).rows(8) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.n_cells = 0  # of the whole batch that is being computed: what dropout is drawn for

    def rows(self, n_cells: int) -> slice:
        """Return the positions of a batch that are this process's; as equal as can be."""
        sizes = self._sizes(n_cells)
        first = sum(sizes[: self.rank])
        return slice(first, first + sizes[self.rank])

    def gather(self, own_b: Tensor, n_cells: int) -> Tensor:
        """Return the rows of all processes in the order of the batch, with their gradients.

        Every process must go on to compute the same loss from them, and gradients of parameters
        must be averaged over the processes, as ``DistributedDataParallel`` does: then they are
        those of one process.
        """
        if self.size == 1:
            return own_b
        gathered: Tensor = _Gather.apply(own_b, self._sizes(n_cells), self.rank)
        return gathered

    @contextlib.contextmanager
    def dropout_of(self, network: nn.Module) -> Iterator[None]:
        """Let the dropout of a network be drawn for the whole batch, for as long as the block runs.

        With one process nothing is changed.
        """
        changed = []
        for module in list(network.modules()) if self.size > 1 else []:
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, _Dropout(child.p, self))
                    changed.append((module, name, child))
        try:
            yield
        finally:
            for module, name, child in changed:
                setattr(module, name, child)

    def _sizes(self, n_cells: int) -> list[int]:
        least, more = divmod(n_cells, self.size)
        return [least + (rank < more) for rank in range(self.size)]


class _Gather(torch.autograd.Function):
    """All-gather of rows.

    The loss is computed in every process, so its gradient arrives whole in each: the own rows are
    cut out, times the number of processes, since the parameters' gradients will be averaged. What
    is computed after the gathering has the same gradient everywhere, and its average is that.
    """

    @staticmethod
    def forward(ctx: Any, own_b: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.first, ctx.sizes, ctx.rank = sum(sizes[:rank]), sizes, rank
        padded = own_b.new_zeros((max(sizes), *own_b.shape[1:]))
        padded[: len(own_b)] = own_b
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own = gradients[0][ctx.first : ctx.first + ctx.sizes[ctx.rank]]
        return own * len(ctx.sizes), None, None


class _Dropout(nn.Module):
    """Dropout drawn for the whole batch, of which the own rows are used.

    The generator is asked for what one process would ask it for, so the masks are the same.
    """

    def __init__(self, p: float, ranks: Ranks) -> None:
        super().__init__()
        self.p = p
        self.ranks = ranks

    def forward(self, x_b: Tensor) -> Tensor:
        """Drop, in training."""
        if not self.training or self.p == 0:
            return x_b
        n_cells = self.ranks.n_cells
        scale_B = F.dropout(x_b.new_ones((n_cells, *x_b.shape[1:])), self.p, training=True)
        return x_b * scale_B[self.ranks.rows(n_cells)]
