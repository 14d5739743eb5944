"""Which processes train together: started by this package, or from outside; a part of the loop.

Owns what Lightning must know of processes. Knows neither network nor cells.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.strategies import DDPStrategy

from scgp.errors import ArgumentError, DeviceError, ScgpError
from scgp.model.config import ModelConfig, TrainConfig
from scgp.training.processes import STEP_TIMEOUT, check_can_start
from scgp.training.ranks import Ranks

#: What ``strategy`` may be.
STRATEGIES = ("auto", "ddp", "ddp_spawn")
#: What starts the processes of a run from outside, in the order in which Lightning looks.
_OUTSIDE: tuple[type[ClusterEnvironment], ...] = (
    TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment,
)  # fmt: skip
#: How long processes from outside wait for the first, which calibrates and builds the index alone.
_LONG = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """How many processes train together, which of them this is, and where they come from.

    Attributes
    ----------
    devices, num_nodes
        Processes of a machine, one for each device, and machines.
    rank
        Which this is; the first, 0, is the one that writes.
    outside
        Whether something else started them (torchrun, SLURM, LSF, MPI): then all of them run the
        script. Else this is the first, and further ones are started to train and to end.
    """

    devices: int = 1
    num_nodes: int = 1
    rank: int = 0
    outside: bool = False

    @property
    def size(self) -> int:
        """How many there are."""
        return self.devices * self.num_nodes

    @classmethod
    def plan(cls, devices: int, num_nodes: int, strategy: str, device: torch.device) -> "Processes":
        """Check what was asked for against what is there.

        Raises
        ------
        ArgumentError
            A number is none of at least 1, `strategy` is unknown, or the processes that were
            started are not as many as were asked for.
        DeviceError
            There are fewer devices.
        """
        for name, value in (("devices", devices), ("num_nodes", num_nodes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"{name} is {value!r}; expected a whole number of at least 1"
                raise ArgumentError(msg)
        if strategy not in STRATEGIES:
            msg = f"strategy is {strategy!r}; expected one of {', '.join(map(repr, STRATEGIES))}"
            raise ArgumentError(msg)
        _check_devices(devices, num_nodes, device)
        size = devices * num_nodes
        # torchrun is there to start one training; tasks of SLURM may well train a model each
        environment = outside(_OUTSIDE if size > 1 else _OUTSIDE[:1])
        if environment is not None:
            return cls._of(environment, devices, num_nodes, strategy)
        if size == 1:
            return cls()
        if num_nodes > 1 or strategy == "ddp":
            msg = (
                f"devices={devices}, num_nodes={num_nodes}, strategy={strategy!r}, but nothing has "
                "started the processes of this run: start the script by torchrun or srun "
                '(docs/training.md has the lines), or pass num_nodes=1 and strategy="auto"'
            )
            raise ArgumentError(msg)
        check_can_start()
        return cls(devices)

    @classmethod
    def _of(
        cls, environment: ClusterEnvironment, devices: int, num_nodes: int, strategy: str
    ) -> "Processes":
        size = environment.world_size()
        if devices * num_nodes != size:
            msg = (
                f"{type(environment).__name__.removesuffix('Environment')} started {size} "
                f"processes, but devices={devices} and num_nodes={num_nodes} ask for "
                f"{devices * num_nodes}; pass devices= (of a machine) and num_nodes= that make "
                f"{size}"
            )
            raise ArgumentError(msg)
        if strategy == "ddp_spawn":
            msg = (
                'strategy is "ddp_spawn", but the processes were started from outside already; '
                'pass "auto" or "ddp"'
            )
            raise ArgumentError(msg)
        return cls(devices, num_nodes, environment.global_rank(), outside=True)

    def check_batches(self, settings: TrainConfig, config: ModelConfig) -> None:
        """Refuse batches of fewer cells than processes."""
        sizes = {"batch_size": settings.batch_size}
        if settings.steps and config.context_layers:
            sizes["context_cells"] = settings.context_cells
        elif settings.steps and settings.masked_cells and settings.weight_masked:
            sizes["masked_cells"] = settings.masked_cells
        for name, cells in sizes.items():
            if cells < self.size:
                msg = (
                    f"{name} is {cells}, fewer than the {self.size} processes that share a batch; "
                    f"pass TrainConfig({name}=) of at least {self.size}, or fewer devices"
                )
                raise ArgumentError(msg)

    def strategy(self, ranks: Ranks) -> Any:
        """Return what Lightning's trainer is given."""
        if self.size == 1:
            return "auto"
        environment = outside() if self.outside else _Beside(ranks)
        return _Together(
            cluster_environment=environment,
            timeout=_LONG if self.outside else STEP_TIMEOUT,
            # each phase trains parameters that the other leaves alone
            find_unused_parameters=True,
            broadcast_buffers=False,
        )

    def plugins(self) -> list[Any]:
        """Return what else Lightning's trainer is given: one process looks at no cluster.

        It would take a job of SLURM for several tasks to have started it with others, and at a
        signal save a checkpoint of its own, which is a pickle.
        """
        return [LightningEnvironment()] if self.size == 1 else []

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Let the others wait for the block, if they run the script, and hear if it fails."""
        failed = True
        try:
            yield
            failed = False
        finally:
            if self.outside:
                torch.distributed.broadcast_object_list([failed], src=0)

    def await_first(self) -> None:
        """Wait for the block of the first process.

        Raises
        ------
        ScgpError
            It failed.
        """
        told: list[bool] = [True]
        torch.distributed.broadcast_object_list(told, src=0)
        if told[0]:
            msg = "process 0 failed after the training; its own error says why"
            raise ScgpError(msg)


def _check_devices(devices: int, num_nodes: int, device: torch.device) -> None:
    """Refuse more devices than there are."""
    if device.type != "cuda":
        return
    if device.index is not None and devices * num_nodes > 1:
        msg = (
            f"device={str(device)!r} names one device, but devices={devices} and "
            f"num_nodes={num_nodes}; pass device='cuda'"
        )
        raise ArgumentError(msg)
    there = torch.cuda.device_count()
    if devices > there:
        msg = (
            f"devices={devices} with device='cuda', but torch sees {there} CUDA device"
            f"{'s' * (there != 1)} here; pass devices={there}, or device='cpu'"
        )
        raise DeviceError(msg)


class _Beside(ClusterEnvironment):
    """The processes that this package has started itself, whose group stands already."""

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks.size

    def set_world_size(self, size: int) -> None:
        assert size == self._ranks.size

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._ranks.rank

    def local_rank(self) -> int:
        return self._ranks.rank

    def node_rank(self) -> int:
        return 0


class _Together(DDPStrategy):
    """DDP over processes that are there: Lightning has none to start, and no variables to set."""

    def _configure_launcher(self) -> None:
        pass


def outside(
    kinds: Sequence[type[ClusterEnvironment]] = _OUTSIDE,
) -> ClusterEnvironment | None:
    """Return what started this process together with others (torchrun, SLURM, ...), if any did.

    Raises
    ------
    ArgumentError
        It was called in a way that Lightning does not support.
    """
    with warnings.catch_warnings():
        # that srun is there and not used: then nothing did
        warnings.filterwarnings("ignore", message=".*srun", category=PossibleUserWarning)
        try:
            found = [_made(kind) for kind in kinds if _started_by(kind)]
        except RuntimeError as error:
            raise ArgumentError(str(error)) from error
    return next((e for e in found if e.world_size() > 1), None)


def _started_by(kind: type[ClusterEnvironment]) -> bool:
    """Whether this process is of that kind: for SLURM a task of srun, not the script of a job."""
    return kind.detect() and (kind is not SLURMEnvironment or "SLURM_STEP_ID" in os.environ)


def _made(kind: type[ClusterEnvironment]) -> ClusterEnvironment:
    """Make an environment; that of SLURM without Lightning's own checkpoints, which are pickles."""
    return SLURMEnvironment(auto_requeue=False) if kind is SLURMEnvironment else kind()
