"""What a training step minimises: the network and the texts it is contrasted with; no loop.

Shape suffixes: B cells, T terms, W width of the text encoder, E width of the joint space.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from scgp.cells.corpus import Corpus
from scgp.cells.queries import ContextSample
from scgp.cells.sampling import MaskedSample, Sample, Sampler, some_cells
from scgp.cells.tokens import TokenBatch
from scgp.model.config import TrainConfig
from scgp.model.context import GeneQueries, count_loss
from scgp.model.losses import cell_loss, masked_expression_loss, text_loss
from scgp.model.network import CellInput, CellOutput, CellTransformer
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.terms import Phenotypes
from scgp.training.ranks import Ranks

Draw = tuple[Sample | ContextSample, MaskedSample | None]


@dataclass(frozen=True)
class TermTable:
    """The terms of one phenotype in a corpus: codes of cells, texts, relations.

    ``names`` are ontology ids, or labels that are no term; ``cell_N`` holds codes into them, -1
    where nothing is known; ``text_TW`` has zero rows for labels without a text.
    """

    names: tuple[str, ...]
    cell_N: np.ndarray
    text_TW: Tensor
    ancestor_TT: Tensor

    @classmethod
    def make(
        cls,
        prefix: str,
        labels: Sequence[str],
        phenotypes: Phenotypes,
    ) -> "TermTable":
        """Resolve labels to terms of an ontology; a label that is no term stands for itself."""
        ontology = Ontology(prefix)
        unique = sorted(set(labels) - {""})
        name_of = {
            label: term or label
            for label, term in zip(unique, ontology.resolve(unique), strict=True)
        }
        names = tuple(sorted(set(name_of.values())))
        code_of = {label: names.index(name) for label, name in name_of.items()}
        code_of[""] = -1
        is_term = [ontology.is_term(name) for name in names]
        ids = [name if term else "" for name, term in zip(names, is_term, strict=True)]
        related = np.eye(len(names), dtype=bool) | ontology.relation(ids)
        return cls(
            names,
            np.array([code_of[x] for x in labels], dtype=np.int64),
            torch.from_numpy(phenotypes.vectors(list(names))),
            torch.from_numpy(related),
        )

    def part(self, rows: np.ndarray) -> "TermTable":
        """Return the table of some cells, with all terms and profiles."""
        return replace(self, cell_N=self.cell_N[rows])


def term_tables(corpus: Corpus, phenotypes: Phenotypes) -> dict[str, TermTable]:
    """Return the tables of type, tissue and disease of a corpus."""
    columns = {
        "type": ("CL", corpus.label_N),
        "tissue": ("UBERON", corpus.tissue_N),
        "disease": ("MONDO", corpus.disease_N),
    }
    return {
        slot: TermTable.make(prefix, labels.tolist(), phenotypes)
        for slot, (prefix, labels) in columns.items()
    }


class Objective(nn.Module):
    """The weighted sum of the losses of one step, and each of them for the history.

    With several processes (`ranks`), each is given the whole batch, passes its own cells through
    the network, and returns the losses of all of them.
    """

    def __init__(
        self,
        network: CellTransformer,
        tables: dict[str, TermTable],
        settings: TrainConfig,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.tables = tables
        self.settings = settings
        self.ranks = ranks or Ranks()

    def draw(self, sampler: Sampler, step: int, *, use_tokens: bool) -> Draw:
        """Return what a step sees; the same every time."""
        s, ranks = self.settings, self.ranks
        if use_tokens and self.network.context is not None:
            return sampler.context_batch(step, s.context_cells, s.queries), None
        if not use_tokens and ranks.size > 1:  # no token of other processes' cells is read
            return sampler.batch(step, ranks.rows(s.batch_size)), None
        masked = None
        if use_tokens and s.masked_cells and s.weight_masked:
            masked = sampler.masked_batch(step, s.masked_cells)
        return sampler.batch(step), masked

    def rows(self, sampler: Sampler, step: int, *, use_tokens: bool) -> np.ndarray:
        """Return the rows of the corpus whose counts `draw` reads."""
        s, ranks = self.settings, self.ranks
        if use_tokens and self.network.context is not None:
            return sampler.context_rows(step, s.context_cells)
        row_B = sampler.batch_rows(step)
        if not use_tokens and ranks.size > 1:
            return row_B[ranks.rows(s.batch_size)]
        if not (use_tokens and s.masked_cells and s.weight_masked):
            return row_B
        return np.concatenate([row_B, sampler.masked_rows(step, s.masked_cells)])

    def losses(self, draw: Draw, *, use_tokens: bool) -> dict[str, Tensor]:
        """Return the losses of what a step sees."""
        sample, masked = draw
        if isinstance(sample, ContextSample):
            return self.in_context(sample)
        losses: dict[str, Tensor] = self(sample, masked, use_tokens=use_tokens)
        return losses

    def forward(
        self, sample: Sample, masked: MaskedSample | None, *, use_tokens: bool
    ) -> dict[str, Tensor]:
        """Return the losses of a step; ``"loss"`` is their weighted sum."""
        device = self.network.gene.weight.device
        out = self.network(self._own(sample.tokens).to(device), use_tokens=use_tokens)
        gene_BLD = None
        if masked is not None:
            own = self._own(masked.tokens).to(device)
            hidden_BL = torch.from_numpy(masked.hidden_BL).to(device)
            own_hidden = hidden_BL[self.ranks.rows(len(hidden_BL))]
            gene_BLD = self.network(own, return_genes=True, hidden_BL=own_hidden).gene_BLD
        with torch.autocast(device.type, enabled=False):
            cell_BE, type_BE, tissue_BE, disease_BE = self._slots_of_all(out, len(sample.row_B))
            losses = self._contrasts(sample, cell_BE, type_BE)
            if self.settings.weight_context:
                losses["tissue"] = self._against_text("tissue", tissue_BE, sample.row_B)
                losses["disease"] = self._against_text("disease", disease_BE, sample.row_B)
            if masked is not None and gene_BLD is not None:
                predicted_BL = self.network.predict_expression(gene_BLD.float())
                predicted_BL = self.ranks.gather(predicted_BL, len(hidden_BL))
                target_BL = torch.from_numpy(masked.target_BL).to(device)
                losses["masked"] = masked_expression_loss(predicted_BL, target_BL, hidden_BL)
        weight = self._weights()
        losses["loss"] = torch.stack([weight[name] * value for name, value in losses.items()]).sum()
        return losses

    def in_context(self, sample: ContextSample) -> dict[str, Tensor]:
        """Return the loss of genes predicted from their context."""
        context = self.network.context
        assert context is not None
        device = self.network.gene.weight.device
        n_cells = len(sample.gene_BQ)
        own = self.ranks.rows(n_cells)
        asked = (torch.from_numpy(x[own]) for x in (sample.gene_BQ, sample.own_BQ))
        queries = GeneQueries(*asked).to(device)
        read = self.network.in_context(self._own(sample.tokens).to(device), queries)
        others = (sample.count_BQ, sample.tokens.total_B, sample.weight_BQ)
        count_BQ, total_B, weight_BQ = (torch.from_numpy(x).to(device) for x in others)
        with torch.autocast(device.type, enabled=False):
            log_rate_BQ = self.ranks.gather(read.log_rate_BQ, n_cells)
            loss = count_loss(log_rate_BQ, count_BQ, total_B, weight_BQ, context.log_size)
        return {"context": loss, "loss": loss}

    def _own(self, tokens: TokenBatch) -> CellInput:
        """Return the cells of a batch that this process computes."""
        self.ranks.n_cells = tokens.n_cells
        if self.ranks.size == 1:
            return as_input(tokens)
        return as_input(some_cells(tokens, self.ranks.rows(tokens.n_cells)))

    def _slots_of_all(self, out: CellOutput, n_cells: int) -> Sequence[Tensor]:
        slots = (out.cell_BE, out.type_BE, out.tissue_BE, out.disease_BE)
        if self.ranks.size == 1:
            return slots
        return self.ranks.gather(torch.stack(slots, dim=1), n_cells).unbind(1)

    def _weights(self) -> dict[str, float]:
        s = self.settings
        return {
            "type": s.weight_text, "cell": s.weight_cell, "tissue": s.weight_context,
            "disease": s.weight_context, "masked": s.weight_masked,
        }  # fmt: skip

    def _contrasts(self, sample: Sample, cell_BE: Tensor, type_BE: Tensor) -> dict[str, Tensor]:
        device = cell_BE.device
        class_B = torch.from_numpy(sample.class_B).to(device)
        study_B = torch.from_numpy(sample.study_B).to(device)
        ancestor_TT = self.tables["type"].ancestor_TT.to(device)
        return {
            "type": self._against_text("type", type_BE, sample.row_B),
            "cell": cell_loss(cell_BE, class_B, study_B, ancestor_TT),
        }

    def _against_text(self, slot: str, slot_BE: Tensor, row_B: np.ndarray) -> Tensor:
        table = self.tables[slot]
        if not len(table.names):
            return slot_BE.sum() * 0.0
        text_TW = table.text_TW.to(slot_BE.device)
        has_text_T = text_TW.any(dim=1)
        code_B = torch.from_numpy(table.cell_N[row_B]).to(slot_BE.device)
        code_B = torch.where((code_B >= 0) & has_text_T[code_B.clamp(min=0)], code_B, -1)
        logit_BT = self.network.text_logits(
            slot_BE, self.network.project_text(text_TW), context=slot != "type"
        )
        return text_loss(
            logit_BT.masked_fill(~has_text_T, -1e4),
            code_B,
            table.ancestor_TT.to(slot_BE.device),
            weight_below=self.settings.weight_below,
        )


def as_input(tokens: TokenBatch) -> CellInput:
    """Return a TokenBatch as tensors."""
    arrays = (
        tokens.gene_BL, tokens.value_BL, tokens.pool_gene_N, tokens.pool_value_N, tokens.offset_B,
    )  # fmt: skip
    return CellInput(*map(torch.from_numpy, arrays))
