"""What is looked after while the loop runs: a common start, early stopping, the unfinished run.

A part of the loop, for Lightning to call; knows neither cells nor files but that of the state.
"""

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from scgp.cells.sampling import Sampler
from scgp.errors import CheckpointError
from scgp.training.objective import Objective
from scgp.training.stopping import N_BATCHES, Stopping
from scgp.training.unfinished import State, restore_optimizer, write_unfinished

logger = logging.getLogger(__name__)

#: Steps between two saves of the training state.
SAVE_EVERY = 200


class Start(Callback):
    """See that all processes start from the same place, with the optimizer's state put back."""

    def __init__(self, identity: str, tensors: State) -> None:
        self.identity = identity
        self.tensors = tensors

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Compare with the first process, and restore."""
        own = (module.first, self.identity)
        if trainer.strategy.broadcast(own) != own:
            msg = (
                f"process {trainer.global_rank} has other cells, settings or another unfinished "
                "run than process 0; all must be given the same files, and see the same folder of "
                "the output"
            )
            raise CheckpointError(msg)
        if self.tensors:
            restore_optimizer(trainer.optimizers[0], self.tensors)


class Check(Callback):
    """Take the loss on held-out cells every so often, and end a phase that no longer improves."""

    def __init__(self, stopping: Stopping, objective: Objective, sampler: Sampler) -> None:
        self.stopping = stopping
        self.objective = objective
        self.sampler = sampler

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Make a check that is due."""
        self._look(trainer, module)  # Ctrl-C may have come between a step and its check

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: object) -> None:
        """Make a check that is due."""
        self._look(trainer, module)

    def _look(self, trainer: lightning.Trainer, module: Any) -> None:
        step, pool_steps = module.taken, module.settings.pool_steps
        if self.stopping.is_due(step):
            # of the first process, so that all decide alike
            loss = trainer.strategy.broadcast(self._loss(use_tokens=step >= pool_steps))
            if trainer.logger is not None:
                trainer.logger.log_metrics({"validation": loss}, step=step - 1 - module.first)
            following = self.stopping.next_step(step, loss)
            if following != step:
                logger.info("stopped early before step %d; going on at step %d", step, following)
                module.go_to(following)
        if module.taken == pool_steps:
            self.stopping.enter_phase()
        if module.taken >= pool_steps + module.settings.steps:
            trainer.should_stop = True  # numbers of steps are left where a phase ended early

    @torch.no_grad()
    def _loss(self, *, use_tokens: bool) -> float:
        """Return the mean loss of the held-out batches, in float32 and without dropout."""
        network = self.objective.network.eval()
        total = 0.0
        with torch.autocast(network.gene.weight.device.type, enabled=False):
            for batch in range(N_BATCHES):
                draw = self.objective.draw(self.sampler, batch, use_tokens=use_tokens)
                total += float(self.objective.losses(draw, use_tokens=use_tokens)["loss"])
        network.train()
        return total / N_BATCHES


class KeepState(Callback):
    """Save weights and optimizer every so often, and when the run is interrupted."""

    def __init__(self, path: Path, identity: str, stopping: Stopping | None = None) -> None:
        self.path = path
        self.identity = identity
        self.stopping = stopping

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: object) -> None:
        """Save every so often."""
        if module.taken % SAVE_EVERY == 0:
            self.save(trainer, module)

    def on_exception(self, trainer: lightning.Trainer, module: Any, _: BaseException) -> None:
        """Save what was reached."""
        self.save(trainer, module)

    def save(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the state of the finished steps; nothing where none was taken."""
        if not trainer.optimizers:
            return
        # as the optimizer counts: Ctrl-C may come after its step and before the end of the batch
        facts = {"step": torch.tensor(module.taken)}
        facts |= self.stopping.facts() if self.stopping else {}
        network, optimizer = module.objective.network, trainer.optimizers[0]
        write_unfinished(self.path, network, optimizer, facts, self.identity)
