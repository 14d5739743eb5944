"""The state of an unfinished training run on disk, and what tells one run from another.

Knows neither the loop nor AnnData.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from scgp.cells.corpus import Corpus
from scgp.errors import CheckpointError
from scgp.model.checkpoint import Model, read_state, write_state
from scgp.model.config import TrainConfig
from scgp.training.objective import TermTable

State = dict[str, torch.Tensor]

#: Weights that start at what is found in a run's cells (`scgp.training.within_types`).
FOUND = {"context.component.weight", "context.component_rate.weight"}


def write_unfinished(
    path: Path,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: State,
    identity: str,
) -> None:
    """Write weights, optimizer and `facts` at once; nothing where no step was taken."""
    adam = optimizer.state_dict()["state"]
    if not adam:
        return
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()}
    for i, state in adam.items():
        tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
    digest = bytes.fromhex(identity)
    tensors["identity"] = torch.tensor(list(digest), dtype=torch.uint8)
    write_state(path, tensors | facts, {})


def read_unfinished(path: Path, identity: str) -> State:
    """Return the state of an unfinished run, empty if there is none.

    Raises
    ------
    CheckpointError
        The state is of another run, or damaged.
    """
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


def under(state: State, prefix: str) -> State:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: State) -> None:
    """Put the optimizer's state back."""
    content = optimizer.state_dict()
    state: dict[int, State] = {}
    for name, tensor in tensors.items():
        number, key = name.split("/")
        state.setdefault(int(number), {})[key] = tensor
    content["state"] = state
    optimizer.load_state_dict(content)


def identity_of(
    corpus: Corpus, model: Model, tables: dict[str, TermTable], settings: TrainConfig
) -> str:
    """Return a sha256 of what a run is made of: settings, cells, terms, and where it starts.

    The number of processes is no part of it: a run may go on with another. Nor is what is worked
    out from all that and rounds by threads and processor.
    """
    names = [table.names for table in tables.values()]
    asked = [model.config.to_dict(), settings.asked(), names, model.details.get("base")]
    text = json.dumps(asked, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    arrays = [*corpus.count_arrays(), corpus.study_N, corpus.donor_N]
    arrays += [corpus.drawn_N, corpus.measured_SG, *(t.cell_N for t in tables.values())]
    tensors = [*(t.text_TW for t in tables.values()), *_given(model)]
    for array in [*arrays, *(tensor.cpu().numpy() for tensor in tensors)]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _given(model: Model) -> list[torch.Tensor]:
    """Return the weights that a run starts with but for those that it finds in its cells."""
    state = model.network.state_dict()
    return [tensor for name, tensor in state.items() if name not in FOUND]
