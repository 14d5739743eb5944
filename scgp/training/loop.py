"""The training loop: Lightning drives the objective, step by step.

Owns the steps, their schedule and the history of losses. Knows nothing of AnnData, calibration or
indexes.
"""

import contextlib
import logging
import math
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from scgp.cells.corpus import Corpus
from scgp.cells.sampling import Sampler
from scgp.cells.tokens import Tokenizer
from scgp.device import has_bf16
from scgp.model.checkpoint import Model, round_weights
from scgp.model.config import ModelConfig, TrainConfig
from scgp.model.network import CellTransformer
from scgp.training.callbacks import Check, KeepState, Start
from scgp.training.objective import Objective, TermTable
from scgp.training.processes import beside
from scgp.training.ranks import Ranks
from scgp.training.stopping import Stopping, held_out
from scgp.training.together import Processes
from scgp.training.unfinished import identity_of, read_unfinished, under

logger = logging.getLogger(__name__)

#: Steps (at most) between two lines of the history.
LOG_EVERY = 20
#: Share of a phase in which the learning rate rises, and what it falls to.
_RISE, _LAST_RATE = 0.15, 0.01


class _Steps(IterableDataset):
    """The numbers of the steps that are left, at most: early stopping may take fewer."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    def __iter__(self) -> Iterator[int]:
        yield from range(self.first, self.last)


class _Module(lightning.LightningModule):
    """The objective as Lightning wants it: steps, optimizer, schedule."""

    def __init__(self, objective: Objective, sampler: Sampler, first: int) -> None:
        super().__init__()
        self.objective = objective
        self.sampler = sampler
        self.settings = objective.settings
        self.first = first
        # the step that comes next: as the optimizer counts, earlier parts of the run included
        self.taken = first
        if objective.ranks.size > 1:
            # DDP looks for parameters without a gradient, of which each phase may have some, and
            # prints a warning from C++ at the first step that has none; this one never has any
            self.never = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, _: int) -> torch.Tensor:
        step = self.taken
        use_tokens = step >= self.settings.pool_steps
        draw = self.objective.draw(self.sampler, step, use_tokens=use_tokens)
        # dropout of a step depends on the step alone, so that a resumed run repeats it
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        if use_tokens and step in {self.first, self.settings.pool_steps}:
            network = self.objective.network
            network.freeze_pooled(frozen=network.config.trained_on_top)
        # the pooled view alone in float32: in bfloat16 it is no faster
        float32 = torch.autocast(self.device.type, enabled=False)
        with contextlib.nullcontext() if use_tokens else float32:
            losses = self.objective.losses(draw, use_tokens=use_tokens)
        self.log_dict({k: v.detach() for k, v in losses.items()}, prog_bar=True, batch_size=1)
        if self.settings.patience:  # steps may be left out, which Lightning does not count
            self.log("step", float(step - self.first), batch_size=1)
        return losses["loss"]

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of the corpus that a step asks for."""
        use_tokens = step >= self.settings.pool_steps
        return self.objective.rows(self.sampler, step, use_tokens=use_tokens)

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
            "context.component.weight", "context.component_rate.weight",
        }  # fmt: skip
        decay = [p for n, p in network.named_parameters() if p.ndim > 1 and n not in tables]
        plain = [p for n, p in network.named_parameters() if p.ndim <= 1 or n in tables]
        groups = [
            {"params": decay, "weight_decay": s.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, fused=True)
        optimizer.register_step_post_hook(self._count)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: _rate(self.taken, s))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def go_to(self, step: int) -> None:
        """Leave the steps before this one out."""
        self.taken = step
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.settings.learning_rate * _rate(step, self.settings)
        self.trainer.should_stop = step == self.settings.pool_steps + self.settings.steps

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


@dataclass(frozen=True)
class _Job:
    """What every process of a run is given; the parameters come from the first as they start.

    Arrays only: tensors would be shared with the process that sent them.
    """

    corpus: Corpus
    tables: dict[str, tuple[Any, ...]]
    settings: TrainConfig
    config: ModelConfig
    buffers: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    identity: str
    device: str
    processes: Processes
    keep_embeddings: bool


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
    processes: Processes | None = None,
    keep_embeddings: bool = False,
) -> None:
    """Train the network of `model` in place and round its weights to what is stored.

    With `keep_embeddings`, of the reader of genes only what it says of expression is trained.

    With several processes that were started from outside, each calls this with the same arguments
    but for its rank; else one does, and further ones are started for as long as it takes.
    """
    processes = processes or Processes()
    identity = identity_of(corpus, model, tables, settings)
    state_path = None if work is None else work / "state.safetensors"
    state = read_unfinished(state_path, identity) if resume and state_path is not None else {}
    if state:
        model.network.load_state_dict(under(state, "network/"))
        logger.info("going on at step %d of %s", int(state["step"]), work)
    if settings.patience:  # before anything is written: it may refuse
        held_out(corpus, tables["type"].cell_N, settings)
    if work is not None and processes.rank == 0:
        work.mkdir(parents=True, exist_ok=True)
        if not state and (work / "history").is_dir():  # of a run that is not gone on with
            shutil.rmtree(work / "history")
    job = _Job(
        corpus=corpus,
        tables={
            slot: (t.names, t.cell_N, t.text_TW.numpy(), t.ancestor_TT.numpy())
            for slot, t in tables.items()
        },
        settings=settings,
        config=model.config,
        buffers={k: v.cpu().numpy() for k, v in model.network.named_buffers()},
        state={k: v.numpy().copy() for k, v in state.items() if not k.startswith("network/")},
        identity=identity,
        device=str(device),
        processes=processes,
        keep_embeddings=keep_embeddings,
    )
    with contextlib.ExitStack() as stack:
        if processes.size > 1 and not processes.outside:
            threads = torch.get_num_threads()
            stack.callback(torch.set_num_threads, threads)
            torch.set_num_threads(max(1, threads // processes.size))
            backend = "nccl" if device.type == "cuda" else "gloo"
            stack.enter_context(beside(processes.size - 1, _follow, job, backend=backend))
        own_work = work if processes.rank == 0 else None
        _fit(model.network, job, processes.rank, own_work, progress=progress)
    model.network.to("cpu").eval()
    round_weights(model.network)


def _follow(rank: int, job: _Job) -> None:
    """Train in a further process; what comes of it is in the first, too."""
    torch.set_num_threads(max(1, torch.get_num_threads() // job.processes.size))
    network = CellTransformer(job.config)
    for name, values in job.buffers.items():
        network.get_buffer(name).copy_(torch.from_numpy(values))
    _fit(network, job, rank, None, progress=False)


def _fit(
    network: CellTransformer, job: _Job, rank: int, work: Path | None, *, progress: bool
) -> None:
    """Train a network in place as one process of a job; keep state and history in `work`."""
    settings, device = job.settings, torch.device(job.device)
    ranks = Ranks(rank, job.processes.size)
    tables = {
        slot: TermTable(names, cell_N, torch.from_numpy(text_TW), torch.from_numpy(ancestor_TT))
        for slot, (names, cell_N, text_TW, ancestor_TT) in job.tables.items()
    }
    state = {k: torch.from_numpy(v) for k, v in job.state.items()}
    first, last = int(state.get("step", 0)), settings.pool_steps + settings.steps
    callbacks: list[Callback] = [Start(job.identity, under(state, "optimizer/"))]
    corpus, stopping = job.corpus, None
    tokenizer = Tokenizer(job.config.n_genes, job.config.n_tokens, job.buffers["gene_weight_G"])
    if settings.patience:
        held_N = held_out(corpus, tables["type"].cell_N, settings)
        parts = [
            (corpus.part(rows), {slot: table.part(rows) for slot, table in tables.items()})
            for rows in (np.flatnonzero(held_N), np.flatnonzero(~held_N))
        ]
        (held, held_tables), (corpus, tables) = parts
        stopping = Stopping(settings)
        if "stopping" in state:
            stopping.restore(state["stopping"])
        callbacks.append(
            Check(
                stopping,
                Objective(network, held_tables, settings, ranks),
                _sampler(held, held_tables, tokenizer, settings, augment=False),
            )
        )
    module = _Module(
        Objective(network, tables, settings, ranks),
        _sampler(corpus, tables, tokenizer, settings),
        first,
    )
    keep = None
    if work is not None:
        keep = KeepState(work / "state.safetensors", job.identity, stopping)
        callbacks.append(keep)
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    network.train()
    network.freeze_embeddings(frozen=job.keep_embeddings)
    with warnings.catch_warnings(), _quiet(), ranks.dropout_of(network):
        # ours is a stream of steps: it has no length, needs no workers, and is made for this loop
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=job.processes.devices if device.index is None else [device.index],
            num_nodes=job.processes.num_nodes,
            strategy=job.processes.strategy(ranks),
            plugins=job.processes.plugins(),
            max_epochs=1,
            precision=_precision(settings, device),
            logger=False if work is None else CSVLogger(work, name="history", version=str(first)),
            log_every_n_steps=max(1, min(LOG_EVERY, last // 10)),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            barebones=False,
        )
        steps = DataLoader(_Steps(first, last), batch_size=None)
        try:
            with module.sampler.ahead(module.rows, range(first, last)):
                _run(lambda: trainer.fit(module, steps))
        finally:
            network.freeze_pooled(frozen=False)
            network.freeze_embeddings(frozen=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if keep is not None:
        keep.save(trainer, module)


def _sampler(
    corpus: Corpus,
    tables: dict[str, TermTable],
    tokenizer: Tokenizer,
    settings: TrainConfig,
    *,
    augment: bool = True,
) -> Sampler:
    return Sampler(
        corpus,
        tables["type"].cell_N,
        tokenizer,
        batch_size=settings.batch_size,
        drawn_share=settings.drawn_share,
        seed=settings.seed,
        augment=augment,
    )


def _precision(settings: TrainConfig, device: torch.device) -> Any:
    return "bf16-mixed" if settings.precision == "auto" and has_bf16(device) else "32-true"


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
    logs = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
