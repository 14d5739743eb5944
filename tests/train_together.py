"""A script that trains; tests/test_train_parallel.py starts it as a user would. No test itself.

``python train_together.py '{"name": {argument of scgp.train: value, ...}, ...}'``
"""

import json
import sys
import time
from pathlib import Path

import scgp
from scgp import demo
from scgp.model.config import ModelConfig, TrainConfig
from scgp.training import callbacks, loop

CONTEXT = {"n_tokens": 16, "width": 16, "context_layers": 1, "pool_width": 16, "embed_dim": 16}
TOKENS = CONTEXT | {"context_layers": 0, "n_layers": 1, "token_slots": True}


def train(out, *, shape=CONTEXT, settings, **options):
    """Train on 300 real blood cells; that they are of four donors is made up."""
    cells = demo.counts()[:300].copy()
    cells.obs["cell_type"] = cells.obs["bulk_labels"].astype(str).map(demo.BULK_LABEL_TO_CL)
    cells.obs["donor"] = [f"synthetic {i % 4}" for i in range(cells.n_obs)]
    start = scgp.Model.default().config
    config = ModelConfig(n_genes=start.n_genes, text_dim=start.text_dim, **shape)
    return scgp.train(
        cells, out=out, label_key="cell_type", study_key=None, calibrate_on_studies=False,
        config=config, settings=TrainConfig(**settings), progress=False, **options,
    )  # fmt: skip


def stop_at(step, sign):
    """Save every other step, and stay in one, for the test to kill everything."""
    callbacks.SAVE_EVERY = 2
    real = loop.Objective.losses

    def losses(self, draw, *, use_tokens):
        losses.calls += 1
        if losses.calls == step:
            Path(sign).write_bytes(b"")
            time.sleep(600)
        return real(self, draw, use_tokens=use_tokens)

    losses.calls = 0
    loop.Objective.losses = losses


if __name__ == "__main__":
    for out, arguments in json.loads(sys.argv[1]).items():
        if "stop_at" in arguments:
            stop_at(*arguments.pop("stop_at"))
        sys.stdout.write(f"{train(out, **arguments).fingerprint}\n")
