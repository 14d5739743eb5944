"""Products of matrices that depend neither on where a row stands nor on the number of threads.

numpy's product rounds the rows of one matrix in several ways, by their place, on some processors
(OpenBLAS on AMD EPYC: one number in eight of a product of 256 x 3,000 by 586 changed its last bit
when the rows were dealt anew). torch's did so for none, as long as the number of rows is the same;
so callers fill up their last rows.

What is fitted by numpy's and scipy's own products and solvers is fitted on one thread of theirs
(`one_thread`): they sum in another order with another number, and a search that ends after so many
steps makes of the last bit a difference in the third digit.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp
    from numpy.typing import NDArray


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Give the linear algebra of numpy and scipy one thread, here or in the function decorated."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def one_thread_here() -> None:
    """Give torch and FAISS one thread in the thread that calls, for as long as that lives.

    For threads that compute side by side. Others keep what they have.
    """
    torch.get_num_threads()  # torch sets its number when a thread first asks for it
    threadpool_limits(limits=1, user_api="openmp")


def product(rows_BD: NDArray[Any], columns_DT: NDArray[Any]) -> NDArray[Any]:
    """Return the matrix product of two arrays of float32 or float64 (B x T), of the larger type.

    Examples
    --------
    >>> product(np.eye(2, dtype="float32"), np.ones((2, 1), "float32")).tolist()
    [[1.0], [1.0]]
    """
    kind = np.result_type(rows_BD, columns_DT, np.float32)
    left, right = (np.ascontiguousarray(x, kind) for x in (rows_BD, columns_DT))
    found: NDArray[Any] = np.empty((len(left), right.shape[1]), kind)
    torch.mm(torch.from_numpy(left), torch.from_numpy(right), out=torch.from_numpy(found))
    return found


def weighted_sums(value_BH: sp.csr_matrix, row_HS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the product of sparse and dense float32 (B x S): sums of weighted rows.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> value_BH = sp.csr_matrix(np.array([[0, 2], [0, 0]], "float32"))
    >>> weighted_sums(value_BH, np.array([[1, 2], [3, 4]], "float32")).tolist()
    [[6.0, 8.0], [0.0, 0.0]]
    """
    arrays = (value_BH.indices, value_BH.indptr, value_BH.data)
    index_N, offset_B, weight_N = (
        torch.from_numpy(np.asarray(x, kind))
        for x, kind in zip(arrays, (np.int64, np.int64, np.float32), strict=True)
    )
    summed = torch.nn.functional.embedding_bag(
        index_N, torch.from_numpy(row_HS), offset_B, mode="sum", per_sample_weights=weight_N,
        include_last_offset=True,
    )  # fmt: skip
    found: NDArray[np.float32] = summed.numpy()
    return found
