"""CellTransformer: a pooled view of all expressed genes, and transformers over gene tokens.

Shape suffixes: B cells of a batch, L gene tokens of a cell, S the four phenotype slots, X = S + L,
D width of the transformer, P width of the gene table, E width of the joint cell-text space,
G genes, T texts, H heads, K width of a head, N expressed genes of all cells of a batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own idiom)

from scgp.model.config import ModelConfig
from scgp.model.context import GeneContext, GeneQueries, GeneRows, InContext

#: The phenotype slots that stand in front of the gene tokens.
SLOTS = ("cell", "type", "tissue", "disease")
_CELL, _TYPE, _TISSUE, _DISEASE = range(len(SLOTS))
#: Temperature at which slots and texts start (CLIP's), and the sharpest it may become.
_START_TEMPERATURE, _SHARPEST = 0.07, 30.0


@dataclass(frozen=True)
class CellInput:
    """A TokenBatch as tensors: what the network reads of a batch of cells."""

    gene_BL: Tensor
    value_BL: Tensor
    pool_gene_N: Tensor
    pool_value_N: Tensor
    offset_B: Tensor

    def to(self, device: torch.device | str) -> "CellInput":
        """Return the same batch on another device."""
        return CellInput(*(t.to(device, non_blocking=True) for t in vars(self).values()))


@dataclass(frozen=True)
class CellOutput:
    """Unit vectors of the four slots (B x E) and, if asked for, the outputs of the gene tokens."""

    cell_BE: Tensor
    type_BE: Tensor
    tissue_BE: Tensor
    disease_BE: Tensor
    gene_BLD: Tensor | None


class Block(nn.Module):
    """Pre-norm attention and feed-forward; with `n_queries`, only the first rows are computed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.n_heads = config.n_heads
        self.norm_attention = nn.LayerNorm(width)
        self.norm_forward = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BXD: Tensor, seen_B11X: Tensor, n_queries: int | None = None) -> Tensor:
        """Update every row, or the first `n_queries` rows, from all rows that are seen."""
        B, X, D = x_BXD.shape
        normed_BXD = self.norm_attention(x_BXD)
        rows = slice(0, X if n_queries is None else n_queries)
        head_shape = (B, -1, self.n_heads, D // self.n_heads)
        query_BHXK = self.query(normed_BXD[:, rows]).view(head_shape).transpose(1, 2)
        key, value = self.key_value(normed_BXD).chunk(2, dim=-1)
        key_BHXK = key.view(head_shape).transpose(1, 2)
        value_BHXK = value.view(head_shape).transpose(1, 2)
        if x_BXD.device.type == "cpu":  # attention in bfloat16 takes six times as long backwards
            query_BHXK, key_BHXK = query_BHXK.float(), key_BHXK.float()
            value_BHXK = value_BHXK.float()
        mixed_BHXK = F.scaled_dot_product_attention(
            query_BHXK, key_BHXK, value_BHXK, attn_mask=seen_B11X
        )
        mixed_BXD = mixed_BHXK.transpose(1, 2).reshape(B, -1, D)
        x_BXD = x_BXD[:, rows] + self.dropout(self.out(mixed_BXD))
        return x_BXD + self.dropout(self.down(F.gelu(self.up(self.norm_forward(x_BXD)))))


class CellTransformer(nn.Module):
    """Gene tokens, phenotype slots and the pooled view; slots are projected beside the texts.

    A gene's identity is one row of a table that the pooled view and the tokens share. The pooled
    view is the sum of the identities of *all* expressed genes, weighted by log1p(CP10k); it joins
    the slots, so nothing is lost to the token budget. Each slot's vector is what the pooled view
    says or, with ``config.token_slots``, the sum of that and of what the transformer says.
    Genes in their context are read by a transformer of its own (``context``; `GeneContext`).
    """

    #: What the pooled view alone is made of: these parameters, and those of these modules.
    POOLED = ("gene", "pool", "pool_to_slots", "text", "sharpness")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        pool = config.pool_width
        self.gene = nn.Embedding(config.n_genes + 1, pool, padding_idx=config.n_genes)
        nn.init.normal_(self.gene.weight, std=0.05)
        with torch.no_grad():
            self.gene.weight[config.n_genes].zero_()
        self.pool = nn.Sequential(
            nn.LayerNorm(pool), nn.Linear(pool, pool), nn.GELU(), nn.LayerNorm(pool),
            nn.Dropout(2 * config.dropout),
        )  # fmt: skip
        self.pool_to_slots = nn.Linear(pool, len(SLOTS) * config.embed_dim)
        # models of before there was a context have these, with no block to read them too
        if config.n_layers or not config.context_layers:
            self._add_tokens()
        self.context = GeneContext(config) if config.context_layers else None
        self.text = nn.Linear(config.text_dim, config.embed_dim, bias=False)
        self.sharpness = nn.Parameter(torch.full((2,), math.log(1 / _START_TEMPERATURE)))
        self.gene_weight_G: Tensor
        self.text_mean: Tensor
        self.register_buffer("gene_weight_G", torch.ones(config.n_genes))
        self.register_buffer("text_mean", torch.zeros(config.text_dim))

    def _add_tokens(self) -> None:
        """Add the transformer over the slots and the gene tokens."""
        config, width, pool = self.config, self.config.width, self.config.pool_width
        self.pool_to_width = nn.Linear(pool, width)
        self.identity = nn.Sequential(nn.LayerNorm(pool), nn.Linear(pool, width))
        self.value = nn.Sequential(
            nn.Linear(1, width // 2), nn.GELU(), nn.Linear(width // 2, width)
        )
        self.hidden_value = nn.Parameter(0.1 * torch.randn(width))
        self.slot = nn.Parameter(0.5 * torch.randn(len(SLOTS), width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)
        self.to_slots = nn.Parameter(torch.zeros(len(SLOTS), width, config.embed_dim))
        self.expression = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def freeze_pooled(self, *, frozen: bool) -> None:
        """Let the parameters of the pooled view be trained, or not."""
        for name, parameter in self.named_parameters():
            if name.split(".")[0] in self.POOLED:
                parameter.requires_grad_(not frozen)

    def freeze_embeddings(self, *, frozen: bool) -> None:
        """Let what embeds genes in their context be trained, or only what is said of expression."""
        for name, parameter in self.named_parameters():
            if name.startswith("context.") and name.split(".", 1)[1] not in GeneContext.SAID:
                parameter.requires_grad_(not frozen)

    def pooled(self, cells: CellInput) -> Tensor:
        """Return the pooled view of all expressed genes (B x P)."""
        summed_BP = F.embedding_bag(
            cells.pool_gene_N,
            self.gene.weight,
            cells.offset_B,
            per_sample_weights=cells.pool_value_N,
            mode="sum",
            include_last_offset=True,
        )
        return self.pool(summed_BP)

    def forward(
        self,
        cells: CellInput,
        *,
        use_tokens: bool | None = None,
        return_genes: bool = False,
        hidden_BL: Tensor | None = None,
    ) -> CellOutput:
        """Embed a batch of cells.

        Parameters
        ----------
        cells
            The batch.
        use_tokens
            Whether the slots' vectors are of pooled view and transformer, or of the pooled view
            alone; None: as the config has it.
        return_genes
            Also return the last block's output at the gene tokens.
        hidden_BL
            True where a token's value is hidden (masked expression). The attention mask depends on
            padding only, never on hidden values.
        """
        pooled_BP = self.pooled(cells)
        slots_BSE = self.pool_to_slots(pooled_BP).unflatten(1, (len(SLOTS), -1))
        gene_BLD = None
        in_slots = self.config.token_slots if use_tokens is None else use_tokens
        if (in_slots or return_genes) and self.config.n_layers:
            token_BLD = self.identity(self.gene(cells.gene_BL)) + self._value(cells, hidden_BL)
            slot_BSD = self.slot + self.pool_to_width(pooled_BP)[:, None]
            x_BXD = torch.cat([slot_BSD, token_BLD], dim=1)
            x_BXD = self._transform(x_BXD, cells.gene_BL, return_genes)
            if in_slots:
                # einsum over slots: each slot has its own map to the joint space
                out_BSE = torch.einsum("bsd,sde->bse", x_BXD[:, : len(SLOTS)], self.to_slots)
                slots_BSE = slots_BSE + out_BSE
            gene_BLD = x_BXD[:, len(SLOTS) :] if return_genes else None
        unit_BSE = F.normalize(slots_BSE.float(), dim=-1)
        cell, kind, tissue, disease = unit_BSE.unbind(1)
        return CellOutput(cell, kind, tissue, disease, gene_BLD)

    def in_context(
        self, cells: CellInput, queries: GeneQueries, rows: GeneRows | None = None
    ) -> InContext:
        """Return contextual embedding and predicted log CP10k of each query; needs ``context``."""
        assert self.context is not None
        read: InContext = self.context(cells, queries, self.gene.weight.detach(), rows)
        return read

    def _value(self, cells: CellInput, hidden_BL: Tensor | None) -> Tensor:
        value_BLD = self.value(cells.value_BL[..., None])
        if hidden_BL is None:
            return value_BLD
        return torch.where(hidden_BL[..., None], self.hidden_value.to(value_BLD.dtype), value_BLD)

    def _transform(self, x_BXD: Tensor, gene_BL: Tensor, all_rows: bool) -> Tensor:  # noqa: FBT001
        always_BS = torch.ones(len(x_BXD), len(SLOTS), dtype=torch.bool, device=x_BXD.device)
        seen_B11X = torch.cat([always_BS, gene_BL < self.config.n_genes], dim=1)[:, None, None]
        for i, block in enumerate(self.blocks):
            # the last block need not compute gene tokens that nobody reads
            last = i == len(self.blocks) - 1 and not all_rows
            x_BXD = block(x_BXD, seen_B11X, len(SLOTS) if last else None)
        return self.norm(x_BXD)

    def project_text(self, text_T: Tensor) -> Tensor:
        """Project text vectors (T x text_dim, unit) into the joint space (T x E, unit)."""
        centred_T = F.normalize(text_T - self.text_mean, dim=-1)
        return F.normalize(self.text(centred_T), dim=-1)

    def text_logits(self, slot_BE: Tensor, text_TE: Tensor, *, context: bool = False) -> Tensor:
        """Scaled cosine between slots and texts (B x T); `context` for tissue and disease."""
        return slot_BE @ text_TE.T * self.sharpness[int(context)].exp().clamp(max=_SHARPEST)

    def predict_expression(self, gene_BLD: Tensor) -> Tensor:
        """Predict log1p(CP10k) at gene tokens (B x L)."""
        return self.expression(gene_BLD).squeeze(-1)
