"""The training loop: Lightning drives the objective, step by step; the only file that imports it.

Owns the schedule, the state of an unfinished run and the history of losses. Knows nothing of
AnnData, calibration or indexes.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from scgp.cells.corpus import Corpus
from scgp.cells.queries import ContextSample
from scgp.cells.sampling import MaskedSample, Sample, Sampler
from scgp.cells.tokens import Tokenizer
from scgp.device import has_bf16
from scgp.errors import CheckpointError
from scgp.model.checkpoint import Model, read_state, round_weights, write_state
from scgp.model.config import TrainConfig
from scgp.objective import Objective, TermTable

logger = logging.getLogger(__name__)

#: Steps between two saves of the training state, and (at most) between two lines of the history.
SAVE_EVERY, LOG_EVERY = 200, 20
#: Share of a phase in which the learning rate rises, and what it falls to.
_RISE, _LAST_RATE = 0.15, 0.01

Step = tuple[int, Sample | ContextSample, MaskedSample | None]


class _Steps(IterableDataset):
    """The samples of steps ``first`` to ``last``; made when asked for, the same every time."""

    def __init__(
        self, sampler: Sampler, settings: TrainConfig, first: int, *, in_context: bool
    ) -> None:
        self.sampler = sampler
        self.settings = settings
        self.first = first
        self.in_context = in_context

    def __iter__(self) -> Iterator[Step]:
        s = self.settings
        steps = range(self.first, s.pool_steps + s.steps)
        with self.sampler.ahead(self._rows, steps):
            for step in steps:
                masked = None
                if self._is_context(step):
                    yield step, self.sampler.context_batch(step, s.context_cells, s.queries), None
                    continue
                if self._is_masked(step):
                    masked = self.sampler.masked_batch(step, s.masked_cells)
                yield step, self.sampler.batch(step), masked

    def _is_context(self, step: int) -> bool:
        return step >= self.settings.pool_steps and self.in_context

    def _is_masked(self, step: int) -> bool:
        s = self.settings
        return bool(step >= s.pool_steps and s.masked_cells and s.weight_masked)

    def _rows(self, step: int) -> np.ndarray:
        """Return the rows of the corpus that a step asks for."""
        s = self.settings
        if self._is_context(step):
            return self.sampler.context_rows(step, s.context_cells)
        rows = self.sampler.batch_rows(step)
        if not self._is_masked(step):
            return rows
        return np.concatenate([rows, self.sampler.masked_rows(step, s.masked_cells)])


class _Module(lightning.LightningModule):
    """The objective as Lightning wants it: steps, optimizer, schedule."""

    def __init__(self, objective: Objective, settings: TrainConfig, first: int) -> None:
        super().__init__()
        self.objective = objective
        self.settings = settings
        self.first = first
        self.taken = first  # steps of the optimizer, those of an earlier part of the run included

    def training_step(self, batch: Step) -> torch.Tensor:
        step, sample, masked = batch
        # dropout of a step depends on the step alone, so that a resumed run repeats it
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        use_tokens = step >= self.settings.pool_steps
        if use_tokens and step in {self.first, self.settings.pool_steps}:
            network = self.objective.network
            network.freeze_pooled(frozen=network.config.trained_on_top)
        # the pooled view alone in float32: in bfloat16 it is no faster
        float32 = torch.autocast(self.device.type, enabled=False)
        with contextlib.nullcontext() if use_tokens else float32:
            if isinstance(sample, ContextSample):
                losses = self.objective.in_context(sample)
            else:
                losses = self.objective(sample, masked, use_tokens=use_tokens)
        self.log_dict({k: v.detach() for k, v in losses.items()}, prog_bar=True, batch_size=1)
        return losses["loss"]

    def transfer_batch_to_device(  # the objective moves what it needs
        self, batch: object, device: torch.device, dataloader_idx: int
    ) -> object:
        return batch

    def configure_gradient_clipping(  # Lightning's refuses fused optimizers; bf16 has no scaler
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def configure_optimizers(self) -> Any:
        s = self.settings
        network = self.objective.network
        tables = {
            "gene.weight", "slot", "to_slots", "hidden_value", "sharpness", "context.rate.weight",
        }  # fmt: skip
        decay = [p for n, p in network.named_parameters() if p.ndim > 1 and n not in tables]
        plain = [p for n, p in network.named_parameters() if p.ndim <= 1 or n in tables]
        groups = [
            {"params": decay, "weight_decay": s.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, fused=True)
        optimizer.register_step_post_hook(self._count)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate(step + self.first, s)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _count(self, *_: object) -> None:
        self.taken += 1


def _rate(step: int, settings: TrainConfig) -> float:
    """One-cycle learning rate of a step, relative to the largest; one cycle for each phase."""
    in_pool = step < settings.pool_steps
    length = settings.pool_steps if in_pool else settings.steps
    place = (step if in_pool else step - settings.pool_steps) / max(length, 1)
    if place < _RISE:
        return _LAST_RATE + (1 - _LAST_RATE) * place / _RISE
    falling = 0.5 * (1 + math.cos(math.pi * min((place - _RISE) / (1 - _RISE), 1.0)))
    return _LAST_RATE + (1 - _LAST_RATE) * falling


class _KeepState(Callback):
    """Save weights and optimizer every so often, and when the run is interrupted."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: object) -> None:
        if module.taken % SAVE_EVERY == 0:
            self.save(trainer, module)

    def on_exception(self, trainer: lightning.Trainer, module: Any, _: BaseException) -> None:
        self.save(trainer, module)

    def save(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the state of the finished steps; nothing where none was taken."""
        adam = trainer.optimizers[0].state_dict()["state"] if trainer.optimizers else {}
        if not adam:
            return
        tensors = {f"network/{k}": v for k, v in module.objective.network.state_dict().items()}
        for i, state in adam.items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        # as the optimizer counts: Ctrl-C may come after its step and before the end of the batch
        tensors["step"] = torch.tensor(module.taken)
        digest = bytes.fromhex(self.identity)
        tensors["identity"] = torch.tensor(list(digest), dtype=torch.uint8)
        write_state(self.path, tensors, {})


def fit_network(
    model: Model,
    corpus: Corpus,
    tables: dict[str, TermTable],
    settings: TrainConfig,
    *,
    device: torch.device,
    work: Path | None,
    resume: bool,
    progress: bool,
) -> None:
    """Train the network of `model` in place and round its weights to what is stored."""
    tokenizer = Tokenizer(
        model.config.n_genes, model.config.n_tokens, model.network.gene_weight_G.numpy()
    )
    sampler = Sampler(
        corpus,
        tables["type"].cell_N,
        tokenizer,
        batch_size=settings.batch_size,
        drawn_share=settings.drawn_share,
        seed=settings.seed,
    )
    identity = _identity(corpus, model, tables, settings)
    state_path = None if work is None else work / "state.safetensors"
    state = _read_state(state_path, identity) if resume and state_path is not None else {}
    first = int(state["step"]) if state else 0
    module = _Module(Objective(model.network, tables, settings), settings, first)
    if state:
        model.network.load_state_dict(_under(state, "network/"))
        logger.info("going on at step %d of %s", first, work)
    callbacks: list[Callback] = [TQDMProgressBar(refresh_rate=20)] if progress else []
    keep = None
    if work is not None and state_path is not None:
        work.mkdir(parents=True, exist_ok=True)
        if not state and (work / "history").is_dir():  # of a run that is not gone on with
            shutil.rmtree(work / "history")
        keep = _KeepState(state_path, identity)
        callbacks.append(keep)
    if state:
        callbacks.append(_RestoreOptimizer(_under(state, "optimizer/")))
    model.network.train()
    with warnings.catch_warnings(), _quiet():
        # ours is a stream of steps: it has no length, needs no workers, and is made for this loop
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            precision="bf16-mixed" if has_bf16(device) else "32-true",
            logger=False if work is None else CSVLogger(work, name="history", version=str(first)),
            log_every_n_steps=max(1, min(LOG_EVERY, (settings.pool_steps + settings.steps) // 10)),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            barebones=False,
        )
        in_context = model.config.context_layers > 0
        steps = DataLoader(_Steps(sampler, settings, first, in_context=in_context), batch_size=None)
        try:
            _run(lambda: trainer.fit(module, steps))
        finally:
            model.network.freeze_pooled(frozen=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if keep is not None:
        keep.save(trainer, module)
    model.network.to("cpu").eval()
    round_weights(model.network)


def _run(fit: Callable[[], None]) -> None:
    """Run Lightning's loop; at Ctrl-C it ignores all later ones and exits: undo both."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        fit()
    except SystemExit as error:
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices about devices and products out of the user's log."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


class _RestoreOptimizer(Callback):
    """Put the optimizer's state back once Lightning has made the optimizer."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        optimizer = trainer.optimizers[0]
        content = optimizer.state_dict()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in self.tensors.items():
            number, key = name.split("/")
            state.setdefault(int(number), {})[key] = tensor
        content["state"] = state
        optimizer.load_state_dict(content)


def _under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _read_state(path: Path, identity: str) -> dict[str, torch.Tensor]:
    """Return the state of an unfinished run, empty if there is none."""
    if not path.is_file():
        return {}
    state = read_state(path)
    if bytes(state["identity"].tolist()).hex() != identity:
        msg = (
            f"{path.parent} holds an unfinished run of other settings or data; remove it, or pass "
            "resume=False to start afresh"
        )
        raise CheckpointError(msg)
    return state


def _identity(
    corpus: Corpus, model: Model, tables: dict[str, TermTable], settings: TrainConfig
) -> str:
    """Return a sha256 of what a run is made of: settings, cells, terms, and where it starts."""
    names = [table.names for table in tables.values()]
    text = json.dumps([model.config.to_dict(), settings.to_dict(), names], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    arrays = [*corpus.count_arrays(), corpus.study_N, corpus.donor_N]
    arrays += [corpus.drawn_N, corpus.measured_SG, *(t.cell_N for t in tables.values())]
    tensors = [*(t.text_TW for t in tables.values()), *model.network.state_dict().values()]
    for array in [*arrays, *(tensor.cpu().numpy() for tensor in tensors)]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
