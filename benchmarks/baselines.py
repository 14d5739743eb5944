"""The light baselines: majority, kNN and logistic regression on PCA, and on genes, CellTypist.

Owns how each is fitted, and the settings that inner validation may choose from. Every method gets
training and query cells in the same genes (those the query measures) and answers with training
labels. Knows nothing of files, folds or scores.

Shapes: N training cells, Q query cells, G genes, H variable genes, D components, T labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks.features import log_normalise, principal_components, variable_genes
from benchmarks.scores import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from benchmarks.corpus import Cells

    Setting = dict[str, Any]
    # Row of the table -> its answer; most methods have one row.
    Rows = dict[str, Answer]

N_COMPONENTS = 50


class Method(Protocol):
    """What `benchmarks.run` and `benchmarks.selection` ask of a method.

    ``grid`` holds the settings to choose from by inner validation; the first is the default.
    """

    name: str
    grid: list[Setting]

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Fit and predict once per setting."""
        ...


def best_of(label_T: NDArray[np.object_], prob_QT: NDArray[np.floating[Any]]) -> Answer:
    """Return the most probable label of each cell, and its probability as the confidence."""
    best_Q = prob_QT.argmax(axis=1)
    confidence_Q = prob_QT[np.arange(len(best_Q)), best_Q]
    return Answer(label_T[best_Q], confidence_Q.astype(np.float32))


class Majority:
    """The most frequent training label for every cell."""

    name = "majority"
    grid: list[Setting] = [{}]  # noqa: RUF012

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Count labels; ``seed`` and ``settings`` change nothing."""
        del seed
        label_T, count_T = np.unique(train.label_N, return_counts=True)
        prob_QT = np.tile(count_T / count_T.sum(), (len(query.obs), 1))
        return [{self.name: best_of(label_T, prob_QT)} for _ in settings]


class _OnComponents:
    """A classifier on principal components of log-normalised variable genes.

    Unscaled is the default: with one shallow study as reference, genes scaled to unit variance
    bring noise (kNN from Kang 2018 control to stimulated cells: accuracy .24 against .82).
    """

    name = ""

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Fit the components once per (number of genes, scaling), the classifier per setting."""
        value_NG, value_QG = log_normalise(train.count_NG), log_normalise(query.count_NG)
        batch_N = train.obs["batch"].to_numpy(dtype=object)
        genes: dict[int, NDArray[np.int64]] = {}
        spaces: dict[tuple[int, bool], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        rows = []
        for setting in settings:
            n_top, scaled = setting["n_genes"], setting["scaled"]
            if n_top not in genes:
                genes[n_top] = variable_genes(value_NG, batch_N, n_top=n_top)
            if (n_top, scaled) not in spaces:
                space = principal_components(
                    value_NG, genes[n_top], n_components=N_COMPONENTS, scaled=scaled
                )
                spaces[n_top, scaled] = space.transform(value_NG), space.transform(value_QG)
            train_ND, query_QD = spaces[n_top, scaled]
            answer = self.classify(train_ND, train.label_N, query_QD, setting, seed=seed)
            rows.append({self.name: answer})
        return rows

    def classify(
        self,
        train_ND: NDArray[np.float32],
        label_N: NDArray[np.object_],
        query_QD: NDArray[np.float32],
        setting: Setting,
        *,
        seed: int,
    ) -> Answer:
        """Fit to the training components and predict."""
        raise AssertionError


class KnnOnPca(_OnComponents):
    """Vote of the nearest training cells on PCA, weighted by inverse distance."""

    name = "kNN on PCA"
    grid: list[Setting] = [  # noqa: RUF012
        {"n_genes": n_genes, "scaled": scaled, "k": k}
        for scaled in (False, True)
        for n_genes in (2000, 1000)
        for k in (15, 5, 50)
    ]

    def classify(
        self,
        train_ND: NDArray[np.float32],
        label_N: NDArray[np.object_],
        query_QD: NDArray[np.float32],
        setting: Setting,
        *,
        seed: int,
    ) -> Answer:
        """Exact search; ``seed`` changes nothing."""
        from sklearn.neighbors import KNeighborsClassifier

        del seed
        k = min(setting["k"], len(train_ND))
        model = KNeighborsClassifier(n_neighbors=k, weights="distance", algorithm="brute")
        model.fit(train_ND, label_N.astype(str))
        return best_of(model.classes_.astype(object), model.predict_proba(query_QD))


class LogisticOnPca(_OnComponents):
    """Multinomial logistic regression on PCA (scikit-learn, L-BFGS)."""

    name = "LR on PCA"
    grid: list[Setting] = [  # noqa: RUF012
        {"n_genes": n_genes, "scaled": scaled, "C": C, "balanced": balanced}
        for scaled in (False, True)
        for n_genes in (2000, 1000)
        for C in (1.0, 0.1, 10.0)
        for balanced in (True, False)
    ]
    # A bound on time: 200 iterations (53,000 cells, 293 labels) took 34 to 58 s, not converged.
    max_iter = 100

    def classify(
        self,
        train_ND: NDArray[np.float32],
        label_N: NDArray[np.object_],
        query_QD: NDArray[np.float32],
        setting: Setting,
        *,
        seed: int,
    ) -> Answer:
        """Components are divided by the first one's deviation, so that C means the same."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        scale = float(train_ND[:, 0].std()) or 1.0
        weight = "balanced" if setting["balanced"] else None
        model = LogisticRegression(
            C=setting["C"], class_weight=weight, max_iter=self.max_iter, random_state=seed
        )
        with warnings.catch_warnings():
            # the bound on time is meant
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            model.fit(train_ND / scale, label_N.astype(str))
        return best_of(model.classes_.astype(object), model.predict_proba(query_QD / scale))


class LogisticOnGenes:
    """Multinomial logistic regression on all log-normalised genes, fitted by mini-batches.

    The objective is scikit-learn's (cross-entropy and L2 with inverse strength C). Its L-BFGS
    needs minutes for every ten passes over 50,000 cells, 18,000 genes and 300 labels, and is far
    from converged then; Adam with a one-cycle rate takes four passes, with products in bfloat16
    where the processor has it (one fit in one trial: 40 s against 117 s, no score worse by .01).
    """

    name = "LR on genes"
    grid: list[Setting] = [  # noqa: RUF012
        {"C": C, "balanced": balanced}
        for balanced in (True, False)
        for C in (1.0, 0.1, 0.01, 0.001)
    ]
    epochs = 4
    batch = 512
    peak_rate = 4e-3

    def answers(
        self, train: Cells, query: Cells, settings: Sequence[Setting], *, seed: int
    ) -> list[Rows]:
        """Fit and predict once per setting."""
        value_NG, value_QG = log_normalise(train.count_NG), log_normalise(query.count_NG)
        label_T, code_N = np.unique(train.label_N.astype(str), return_inverse=True)
        rows = []
        for setting in settings:
            weight_TG, bias_T = self._fit(value_NG, code_N, len(label_T), setting, seed=seed)
            logit_QT = value_QG @ weight_TG.T + bias_T
            power_QT = np.exp(logit_QT - logit_QT.max(axis=1, keepdims=True))
            prob_QT = power_QT / power_QT.sum(axis=1, keepdims=True)
            rows.append({self.name: best_of(label_T.astype(object), prob_QT)})
        return rows

    def _fit(
        self,
        value_NG: sp.csr_matrix,
        code_N: NDArray[np.int64],
        n_labels: int,
        setting: Setting,
        *,
        seed: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weights (T, G) and biases (T,); both start at zero."""
        import torch

        from scgp.device import has_bf16

        n_cells, n_genes = value_NG.shape
        count_T = np.bincount(code_N, minlength=n_labels)
        balance_T = n_cells / (n_labels * count_T) if setting["balanced"] else np.ones(n_labels)
        loss_of = torch.nn.CrossEntropyLoss(weight=torch.tensor(balance_T, dtype=torch.float32))
        model = torch.nn.Linear(n_genes, n_labels)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        # d/dw of |w|^2 / (2 C N), scikit-learn's penalty on the scale of the mean loss.
        decay = 1.0 / (setting["C"] * n_cells)
        groups = [
            {"params": [model.weight], "weight_decay": decay},
            {"params": [model.bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.Adam(groups, lr=self.peak_rate)
        n_batches = -(-n_cells // self.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.peak_rate, total_steps=self.epochs * n_batches
        )
        bf16 = has_bf16(torch.device("cpu"))
        rng = np.random.default_rng(seed)
        for _ in range(self.epochs):
            for rows in np.array_split(rng.permutation(n_cells), n_batches):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logit_BT = model(torch.from_numpy(value_NG[rows].toarray()))
                loss_of(logit_BT.float(), torch.from_numpy(code_N[rows])).backward()
                optimizer.step()
                schedule.step()
        return model.weight.detach().numpy(), model.bias.detach().numpy()
