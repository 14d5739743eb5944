"""SingleR in the benchmark: correlation with reference profiles on marker genes of pairs of labels.

Owns its calls. The method is that of Aran et al. 2019 (doi:10.1038/s41590-018-0276-y), in the
implementation of its authors for Python (singler).

Shapes: N training cells, Q query cells, G genes, P profiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.features import log_normalise
from benchmarks.scores import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.baselines import Rows, Setting
    from benchmarks.corpus import Cells


class SingleR:
    """SingleR with fine-tuning, against the mean profile of each label in each study.

    Its authors advise to aggregate references of more than a thousand cells. Their own aggregation
    (singler 0.5.0) does not work with the newest scranpy that Python 3.11 gets, so profiles are
    means of log-normalised values by label and batch, and markers the "classic" ones, which are
    made for profiles. The confidence is the difference between the two best scores: it ranks cells
    and is no probability, so its calibration error says nothing.
    """

    name = "SingleR"
    grid: list[Setting] = [  # noqa: RUF012
        {"quantile": quantile, "n_markers": n_markers}
        for n_markers in (None, 10)
        for quantile in (0.8, 1.0)
    ]

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Fit and predict once per setting; ``seed`` changes nothing."""
        import singler

        del seed
        profile_GP, label_P = _profiles(train)
        value_GQ = sp.csc_matrix(log_normalise(query.count_NG).T)
        value_GQ.sort_indices()
        genes = train.gene_G.astype(str).tolist()
        rows = []
        for setting in settings:
            built = singler.train_single(
                profile_GP, label_P, genes, test_features=genes, num_de=setting["n_markers"]
            )
            found = singler.classify_single(value_GQ, built, quantile=setting["quantile"])
            delta_Q = np.nan_to_num(np.asarray(found["delta"], np.float32))
            rows.append({self.name: Answer(np.array(found["best"], dtype=object), delta_Q)})
        return rows


def _profiles(train: Cells) -> tuple[NDArray[np.float64], list[str]]:
    """Return the mean log-normalised profile of each label and batch (G x P), and its label."""
    pair = train.obs[["label", "batch"]].astype(str)
    code_N, pairs = pd.factorize(pd.MultiIndex.from_frame(pair), sort=True)
    ones = (np.ones(len(code_N)), (code_N, np.arange(len(code_N))))
    sum_PG = sp.csr_matrix(ones, (len(pairs), len(code_N))) @ log_normalise(train.count_NG)
    profile_GP = (sum_PG.toarray() / np.bincount(code_N)[:, None]).T
    return np.asfortranarray(profile_GP, dtype=np.float64), [label for label, _ in pairs]
