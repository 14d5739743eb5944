"""The settings of a model and of a training run, as strict JSON; knows no torch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from scgp.errors import ArgumentError, CheckpointError


class _StrictConfig:
    """A frozen dataclass that refuses fields it does not know and values of another type.

    ``_ADDED`` has the fields that earlier versions did not have, with what those did.
    """

    _ADDED: ClassVar[dict[str, Any]] = {}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the config from JSON values.

        Raises
        ------
        CheckpointError
            A field is missing, unknown or of another type.
        """
        values = {**cls._ADDED, **values}
        fields = {field.name: field.type for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown, missing = set(values) - set(fields), set(fields) - set(values)
        if unknown or missing:
            msg = f"{cls.__name__}: unknown fields {sorted(unknown)}, missing {sorted(missing)}"
            raise CheckpointError(msg)
        for name, wanted in fields.items():
            value = values[name]
            fits = type(value) is wanted or (wanted is float and type(value) is int)
            if not fits:
                expected = getattr(wanted, "__name__", wanted)
                msg = f"{cls.__name__}.{name} is {value!r}; expected {expected}"
                raise CheckpointError(msg)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class ModelConfig(_StrictConfig):
    """Shape of the network.

    Parameters
    ----------
    n_genes
        Genes of the vocabulary (G).
    n_tokens
        Most gene tokens a cell is given (L).
    width
        Width of the transformer (D).
    n_layers, n_heads
        Blocks of the transformer that takes part in the vectors of cells, and attention heads;
        ``n_layers=0`` leaves the pooled view alone.
    pool_width
        Width of the gene table and of the pooled view (P).
    embed_dim
        Width of the cell embedding and of the joint cell-text space (E).
    text_dim
        Width of the text encoder's vectors.
    dropout
        Dropout in the blocks; twice as much after the pooled view.
    token_slots
        Whether a cell's vectors are the sum of what the pooled view and what that transformer say.
        If not, they are the pooled view's (docs/log.md has what the other is worth). True for all
        models of before 0.7.0.
    context_layers
        Blocks of the transformer that reads a gene in its context
        (:class:`scgp.model.context.GeneContext`); 0 for all models of before 0.8.0.
    context_components
        Components of the linear view that stands beside this transformer in what it predicts; 0
        for all models of before 0.19.0. Without such a transformer it has no part in anything.
    """

    _ADDED = {  # noqa: RUF012 (a ClassVar of the parent)
        "token_slots": True, "context_layers": 0, "context_components": 0,
    }  # fmt: skip

    n_genes: int
    n_tokens: int = 128
    width: int = 128
    n_layers: int = 0
    n_heads: int = 4
    pool_width: int = 256
    embed_dim: int = 128
    text_dim: int = 384
    dropout: float = 0.1
    token_slots: bool = False
    context_layers: int = 2
    context_components: int = 64

    @property
    def tokens_on_top(self) -> bool:
        """Whether there is a transformer over the slots that has no part in the vectors of cells.

        So it was in 0.7.0.
        """
        return self.n_layers > 0 and not self.token_slots

    @property
    def pooled_alone(self) -> bool:
        """Whether the vectors of cells are the pooled view's alone."""
        return not (self.n_layers and self.token_slots)

    @property
    def trained_on_top(self) -> bool:
        """Whether there is a transformer that is trained on a pooled view which stays as it is."""
        return self.tokens_on_top or self.context_layers > 0

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        sizes = ("n_genes", "n_tokens", "width", "n_heads", "pool_width", "embed_dim", "text_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}; expected at least 1"
                raise ArgumentError(msg)
        if self.width % self.n_heads:
            msg = f"width {self.width} cannot be split over {self.n_heads} heads"
            raise ArgumentError(msg)
        least = min(self.n_layers, self.context_layers, self.context_components)
        if least < 0 or not 0 <= self.dropout < 0.5:
            msg = (
                f"n_layers is {self.n_layers}, context_layers {self.context_layers}, "
                f"context_components {self.context_components}, dropout {self.dropout}; expected "
                ">= 0, >= 0, >= 0 and 0 to 0.5"
            )
            raise ArgumentError(msg)
        if self.n_layers and self.context_layers:
            msg = (
                f"n_layers is {self.n_layers} and context_layers is {self.context_layers}; a model "
                "has one transformer: set either to 0"
            )
            raise ArgumentError(msg)


@dataclass(frozen=True)
class TrainConfig(_StrictConfig):
    """Settings of a training run.

    Parameters
    ----------
    pool_steps
        Steps in which the pooled view is trained alone; it learns fast and cheaply, and the
        transformer then starts from what it knows.
    steps
        Steps in which a transformer is trained, after `pool_steps`: the one that reads genes in
        their context (``ModelConfig.context_layers``), on top of what the pooled view has learnt,
        which stays as it is; or, in a model without one, the one that takes part in the vectors of
        cells (``ModelConfig.token_slots``), together with the pooled view.
    batch_size
        Cells of a step; `drawn_share` of them are drawn from profiles, where there are any.
    learning_rate, weight_decay
        Of AdamW, with a one-cycle schedule in each phase.
    drawn_share
        Share of drawn cells in a batch.
    context_cells, queries
        Cells of a step whose genes are predicted from their context, and genes of each.
    masked_cells
        Cells of a step whose expression is masked and predicted, in a model without a context.
    weight_text, weight_cell, weight_context, weight_masked
        Weights of the losses: type slot against text, cells across studies, tissue and disease
        slots against text, masked expression.
    weight_below
        Credit for terms below a cell's own in the text loss (:func:`scgp.model.losses.text_loss`).
    seed
        Seed of the network, of the sampling and of the augmentations.
    precision
        ``"auto"``: the pooled view is trained in float32, a transformer in bfloat16 where the
        device multiplies it in hardware. ``"float32"``: everything in float32.
    patience
        Early stopping: a phase ends when the loss on held-out donors or studies has not fallen
        below its least value for this many checks in a row. 0 trains all steps and holds nothing
        out. The weights are those of the last step, not of the best check.
    validate_every
        Steps between two checks, counted from the start of a phase.
    validation_share
        Share of the labelled cells to hold out, above 0 and below 1: whole studies that share no
        donor with others, or with one study whole donors, until there are as many.
    """

    _ADDED = {  # noqa: RUF012 (a ClassVar of the parent)
        "precision": "auto", "patience": 0, "validate_every": 100, "validation_share": 0.1,
    }  # fmt: skip

    pool_steps: int = 800
    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    drawn_share: float = 0.3
    context_cells: int = 64
    queries: int = 64
    masked_cells: int = 48
    weight_text: float = 1.0
    weight_cell: float = 1.0
    weight_context: float = 0.1
    weight_masked: float = 0.2
    weight_below: float = 1.0
    seed: int = 0
    precision: str = "auto"
    patience: int = 0
    validate_every: int = 100
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if self.pool_steps < 0 or self.steps < 0 or self.pool_steps + self.steps < 1:
            found = f"pool_steps is {self.pool_steps} and steps {self.steps}"
            msg = f"{found}; expected at least 1 in all"
            raise ArgumentError(msg)
        if not 0 < self.weight_below <= 1:
            msg = f"weight_below is {self.weight_below}; expected above 0 and at most 1"
            raise ArgumentError(msg)
        if self.batch_size < 2:
            msg = f"batch_size is {self.batch_size}; a contrast needs at least 2 cells"
            raise ArgumentError(msg)
        if not 0 <= self.drawn_share < 1 or not 0 < self.learning_rate < math.inf:
            msg = (
                f"drawn_share is {self.drawn_share}, learning_rate {self.learning_rate}; "
                "expected 0 <= drawn_share < 1 and a positive learning rate"
            )
            raise ArgumentError(msg)
        if self.precision not in {"auto", "float32"}:
            msg = f"precision is {self.precision!r}; expected 'auto' or 'float32'"
            raise ArgumentError(msg)
        if self.patience < 0 or self.validate_every < 1 or not 0 < self.validation_share < 1:
            msg = (
                f"patience is {self.patience}, validate_every {self.validate_every}, "
                f"validation_share {self.validation_share}; expected >= 0, >= 1 and above 0 and "
                "below 1"
            )
            raise ArgumentError(msg)

    def asked(self) -> dict[str, Any]:
        """Return the fields as JSON values, without what earlier versions had not and is not used.

        What tells one run from another, across versions.
        """
        values = self.to_dict()
        return {k: v for k, v in values.items() if k not in self._ADDED or v != self._ADDED[k]}
