"""Early stopping: which cells are held out of training, and when a phase has gone on long enough.

Knows neither the loop nor the network.

Shape suffixes: N cells of the corpus.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from scgp.cells.corpus import Corpus
from scgp.errors import ArgumentError
from scgp.model.config import TrainConfig
from scgp.training.calibrate import independent_groups

#: Batches of held-out cells whose mean loss is the check; the same ones each time.
N_BATCHES = 4


def held_out(corpus: Corpus, class_N: np.ndarray, settings: TrainConfig) -> np.ndarray:
    """Return which cells are held out: those of some studies, or with one study of some donors.

    Groups of studies that share donors (`scgp.training.calibrate.independent_groups`) are taken at
    random until they hold ``validation_share`` of the labelled cells; one is always left to train
    on. Unlabelled cells of the same studies or donors are held out too, drawn cells never.

    Raises
    ------
    ArgumentError
        There is one group only.
    """
    group_N = independent_groups(corpus, class_N)
    size = np.bincount(group_N[group_N >= 0])
    if len(size) < 2:
        msg = (
            "patience > 0 stops on held-out donors or studies, but the labelled cells are of one "
            "donor, or of studies that all share donors; pass patience=0, or donor_key and "
            "study_key that tell them apart"
        )
        raise ArgumentError(msg)
    order = np.random.default_rng([settings.seed, 0, 3]).permutation(len(size))
    before = np.cumsum(size[order]) - size[order]
    taken = order[:-1][before[:-1] < settings.validation_share * size.sum()]
    chosen_N = np.isin(group_N, taken)
    held_N = np.isin(corpus.donor_N, corpus.donor_N[chosen_N])
    if len(np.unique(corpus.study_N[group_N >= 0])) > 1:
        held_N |= np.isin(corpus.study_N, corpus.study_N[chosen_N])
    return held_N & ~corpus.drawn_N


@dataclass
class Stopping:
    """When to check, and whether a phase has gone on long enough.

    ``least`` is the least loss of the phase, ``bad`` the checks since, ``checked`` the step before
    which the last check was made.
    """

    settings: TrainConfig
    least: float = math.inf
    bad: int = 0
    checked: int = -1

    def is_due(self, step: int) -> bool:
        """Whether a check is to be made before this step; never at the start of a phase."""
        s = self.settings
        place = step - (s.pool_steps if step >= s.pool_steps else 0)
        ended = step == s.pool_steps + s.steps
        due = place > 0 and place % s.validate_every == 0 and not ended
        return due and step != self.checked

    def next_step(self, step: int, loss: float) -> int:
        """Take a check's loss; return the step to go on with, that of the next phase if it ends."""
        s = self.settings
        self.checked = step
        self.bad = 0 if loss < self.least else self.bad + 1
        self.least = min(loss, self.least)
        if self.bad < s.patience:
            return step
        return s.pool_steps if step < s.pool_steps else s.pool_steps + s.steps

    def enter_phase(self) -> None:
        """Forget the losses of the phase before."""
        self.least, self.bad = math.inf, 0

    def facts(self) -> dict[str, torch.Tensor]:
        """Return what is kept with an unfinished run."""
        values = [self.least, self.bad, self.checked]
        return {"stopping": torch.tensor(values, dtype=torch.float64)}

    def restore(self, values: torch.Tensor) -> None:
        """Take back what `facts` returned."""
        self.least, bad, checked = values.tolist()
        self.bad, self.checked = int(bad), int(checked)
