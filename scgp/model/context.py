"""GeneContext: what the rest of a cell says of a gene; a transformer over gene-expression tokens.

A gene is a *query* that attends to the gene tokens of its cell. It never sees its own value: its
own token is closed to it, its own part is taken out of the pooled view, and queries do not see
each other. So a gene's contextual embedding depends neither on which other genes are asked for nor
(save for the share of ten thousand that it takes from them, which is corrected to first order in
the pooled view) on how much of it the cell expresses, and no budget of tokens can lose it.

Shape suffixes: B cells of a batch, Q queries of a cell, L gene tokens of a cell, X = 1 + L with the
token that is always there, D width of the transformer, P width of the gene table, C components, G
genes, H heads, K width of a head, N expressed genes of all cells of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own idiom)

if TYPE_CHECKING:
    from scgp.model.config import ModelConfig
    from scgp.model.network import CellInput

#: What values are scaled to: log1p of counts per ten thousand.
CP10K = 1e4
#: The least and the largest log of CP10k that can be predicted.
LEAST_LOG, LARGEST_LOG = -12.0, 8.5
#: The length of a cell in the linear view, and what the components say of expression at the start.
LENGTH, RATE_START = 10.0, 0.5
#: Added to the mean square of the pooled view, which is 0 where a cell has the query alone.
LEAST_SQUARE = 1e-6


@dataclass(frozen=True)
class GeneQueries:
    """Genes that are read in cells; padded with ``n_genes``.

    ``own_BQ`` is log1p(CP10k) of the gene in the cell, 0 where it is not expressed: what has to be
    taken out of the context.
    """

    gene_BQ: Tensor
    own_BQ: Tensor

    def to(self, device: torch.device | str) -> GeneQueries:
        """Return the same queries on another device."""
        return GeneQueries(self.gene_BQ.to(device), self.own_BQ.to(device))


class ContextBlock(nn.Module):
    """Pre-norm attention from queries to the tokens of their cell, and feed-forward."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_token = nn.LayerNorm(width)
        self.norm_forward = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x_BQD: Tensor, token_BXD: Tensor, seen_B1QX: Tensor) -> Tensor:
        """Update every query from the tokens that it may see."""
        B, _, D = x_BQD.shape
        head_shape = (B, -1, self.n_heads, D // self.n_heads)
        query_BHQK = self.query(self.norm_query(x_BQD)).view(head_shape).transpose(1, 2)
        key, value = self.key_value(self.norm_token(token_BXD)).chunk(2, dim=-1)
        key_BHXK = key.reshape(head_shape).transpose(1, 2)
        value_BHXK = value.reshape(head_shape).transpose(1, 2)
        if x_BQD.device.type == "cpu":  # attention in bfloat16 takes six times as long backwards
            query_BHQK, key_BHXK = query_BHQK.float(), key_BHXK.float()
            value_BHXK = value_BHXK.float()
        mixed_BHQK = F.scaled_dot_product_attention(
            query_BHQK, key_BHXK, value_BHXK, attn_mask=seen_B1QX
        )
        mixed_BQD = mixed_BHQK.transpose(1, 2).reshape(x_BQD.shape).to(x_BQD.dtype)
        x_BQD = x_BQD + self.out(mixed_BQD)
        return x_BQD + self.down(F.gelu(self.up(self.norm_forward(x_BQD))))


@dataclass(frozen=True)
class GeneRows:
    """What is the same for a gene in every cell: rows for the genes that are looked up.

    ``place_G`` is the row of each gene (and of the padding), or None where every gene has its own;
    ``norm_G`` is the squared length of its identity.
    """

    place_G: Tensor | None
    identity_GD: Tensor
    pooled_GD: Tensor
    table_GP: Tensor
    norm_G: Tensor

    def row(self, gene: Tensor) -> Tensor:
        """Return the rows of genes."""
        return gene if self.place_G is None else self.place_G[gene]


@dataclass(frozen=True)
class InContext:
    """What is read of genes in their context: embeddings, and log CP10k (natural logarithm)."""

    embedding_BQD: Tensor
    log_rate_BQ: Tensor


class GeneContext(nn.Module):
    """Read genes in their context, and predict their expression from it alone.

    The expression head says log CP10k of the gene in such a cell, fitted by the negative binomial
    likelihood of its count given the cell's depth (the count model of scVI, Lopez et al. 2018).

    The embedding knows the cell by a pooled view that was trained to tell cell types, to which the
    cells of one type are nearly one. So what is said of expression has a second, linear part: a sum
    over the genes of the cell (``component``, ``config.context_components`` numbers a gene), which
    starts as the components in which cells of one type and study differ. It has no part in the
    embedding, which is there to compare contexts.
    """

    #: The parameters that say what a gene expresses, and have no part in its embedding.
    SAID = ("rate.weight", "mean_G", "log_size", "component.weight", "component_rate.weight")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_genes = config.n_genes
        width, pool = config.width, config.pool_width
        self.pool = nn.Linear(pool, width, bias=False)
        self.from_pool = nn.Linear(width, width)
        self.identity = nn.Sequential(nn.LayerNorm(pool), nn.Linear(pool, width))
        self.value = nn.Sequential(
            nn.Linear(1, width // 2), nn.GELU(), nn.Linear(width // 2, width)
        )
        self.always = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            ContextBlock(width, config.n_heads) for _ in range(config.context_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.rate = nn.Embedding(config.n_genes + 1, width, padding_idx=config.n_genes)
        nn.init.normal_(self.rate.weight, std=0.02)
        self.mean_G = nn.Parameter(torch.zeros(config.n_genes + 1))
        self.log_size = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.rate.weight[config.n_genes].zero_()
        self.component = self.component_rate = None
        if config.context_components:
            shape = (config.n_genes + 1, config.context_components)
            self.component = nn.Embedding(*shape, padding_idx=config.n_genes)
            self.component_rate = nn.Embedding(*shape, padding_idx=config.n_genes)
            nn.init.zeros_(self.component_rate.weight)
            nn.init.normal_(self.component.weight, std=config.n_genes**-0.5)
            with torch.no_grad():
                self.component.weight[config.n_genes].zero_()

    def start_components(self, axis_GC: Tensor) -> None:
        """Start the linear view, and what it says of expression, at orthonormal axes."""
        assert self.component is not None
        assert self.component_rate is not None
        with torch.no_grad():
            self.component.weight[: self.n_genes, : axis_GC.shape[1]] = axis_GC
            self.component_rate.weight[: self.n_genes, : axis_GC.shape[1]] = RATE_START * axis_GC

    def rows(self, table_GP: Tensor, genes: Tensor | None = None) -> GeneRows:
        """Prepare the rows of some genes, or of all: what a network that is read often keeps."""
        place_G = None
        if genes is not None:
            place_G = torch.zeros(len(table_GP), dtype=torch.long, device=table_GP.device)
            place_G[genes] = torch.arange(len(genes), device=table_GP.device)
            table_GP = table_GP[genes]
        norm_G = table_GP.square().sum(-1)
        return GeneRows(place_G, self.identity(table_GP), self.pool(table_GP), table_GP, norm_G)

    def forward(
        self, cells: CellInput, queries: GeneQueries, table_GP: Tensor, rows: GeneRows | None = None
    ) -> InContext:
        """Return the contextual embedding of each query, and the log CP10k that it predicts.

        Parameters
        ----------
        cells
            The batch; tokens padded with ``n_genes``.
        queries
            What is read.
        table_GP
            The gene table that this shares with the pooled view; it is not trained here.
        rows
            The rows of all genes, where they have been prepared.
        """
        if rows is None:
            rows = self.rows(
                table_GP, torch.cat([cells.gene_BL.ravel(), queries.gene_BQ.ravel()]).unique()
            )
        x_BQD = rows.identity_GD[rows.row(queries.gene_BQ)]
        pooled_BQD = self._pooled_without(cells, queries, table_GP, rows)
        x_BQD = x_BQD + self.from_pool(F.gelu(pooled_BQD))
        token_BLD = rows.identity_GD[rows.row(cells.gene_BL)] + self.value(
            cells.value_BL[..., None]
        )
        always_B1D = self.always.to(token_BLD.dtype).expand(len(token_BLD), 1, -1)
        token_BXD = torch.cat([always_B1D, token_BLD], dim=1)
        seen_B1QX = self._seen(cells.gene_BL, queries.gene_BQ)
        for block in self.blocks:
            x_BQD = block(x_BQD, token_BXD, seen_B1QX)
        x_BQD = self.norm(x_BQD)
        linear_BQC = self._linear_without(cells, queries)
        with torch.autocast(x_BQD.device.type, enabled=False):
            return InContext(x_BQD, self._log_rate(x_BQD.float(), linear_BQC, queries.gene_BQ))

    def _pooled_without(
        self, cells: CellInput, queries: GeneQueries, table_GP: Tensor, rows: GeneRows
    ) -> Tensor:
        """Project the pooled view without the query's own part (B x Q x D), at unit mean square.

        The pooled view is the sum of the identities of all expressed genes, weighted by their
        values. Without the query's counts the other genes have a larger share: their values rise by
        log(1 / (1 - share)) x CP10k / (1 + CP10k), to first order. All of it is linear in the sums
        of a cell and the identity of a gene, so no query needs a product of matrices here.
        """
        with torch.autocast(table_GP.device.type, enabled=False):
            cp10k_N = torch.expm1(cells.pool_value_N)
            sum_BP, rise_BP = (
                F.embedding_bag(
                    cells.pool_gene_N, table_GP, cells.offset_B, per_sample_weights=weight_N,
                    mode="sum", include_last_offset=True,
                )
                for weight_N in (cells.pool_value_N, cp10k_N / (1 + cp10k_N))
            )  # fmt: skip
            own_BQ, factor_BQ = own_part(queries.own_BQ)
            row_BQ = rows.row(queries.gene_BQ)
            both_BP2 = torch.stack([sum_BP, rise_BP], dim=-1)
            dot_BQ2 = rows.table_GP[row_BQ] @ both_BP2
            gram_B22 = both_BP2.transpose(1, 2) @ both_BP2
            square_BQ = (
                gram_B22[:, 0, 0, None]
                + factor_BQ * (2 * gram_B22[:, 0, 1, None] + factor_BQ * gram_B22[:, 1, 1, None])
                - 2 * own_BQ * (dot_BQ2[..., 0] + factor_BQ * dot_BQ2[..., 1])
                + own_BQ.square() * rows.norm_G[row_BQ]
            )
            scale_BQ = torch.rsqrt(square_BQ.clamp(min=0) / table_GP.shape[1] + LEAST_SQUARE)
        sum_BD, rise_BD = self.pool(sum_BP), self.pool(rise_BP)
        projected_BQD = (
            sum_BD[:, None]
            + factor_BQ[..., None] * rise_BD[:, None]
            - own_BQ[..., None] * rows.pooled_GD[row_BQ]
        )
        return projected_BQD * scale_BQ[..., None]

    def _linear_without(self, cells: CellInput, queries: GeneQueries) -> Tensor | None:
        """Return the linear view without the query's own part (B x Q x C), if there is one.

        The sum of the genes' components, weighted by their values, over the length of the cell's
        values: both as `_pooled_without` has them, without the query's counts.
        """
        if self.component is None:
            return None
        table_GC = self.component.weight
        with torch.autocast(table_GC.device.type, enabled=False):
            value_N, offset_B = cells.pool_value_N, cells.offset_B
            rise_N = -torch.expm1(-value_N)  # CP10k / (1 + CP10k)
            sum_BC, rise_BC = (
                F.embedding_bag(
                    cells.pool_gene_N, table_GC, offset_B, per_sample_weights=weight_N,
                    mode="sum", include_last_offset=True,
                )
                for weight_N in (value_N, rise_N)
            )  # fmt: skip
            cell_N = torch.repeat_interleave(offset_B.diff())
            square_B, mixed_B, rise_square_B = (
                value_N.new_zeros(len(sum_BC)).index_add_(0, cell_N, product_N)
                for product_N in (value_N.square(), value_N * rise_N, rise_N.square())
            )
            own_BQ, factor_BQ = own_part(queries.own_BQ)
            square_BQ = (
                square_B[:, None]
                + factor_BQ * (2 * mixed_B[:, None] + factor_BQ * rise_square_B[:, None])
                - own_BQ.square()
            )
            without_BQC = (
                sum_BC[:, None]
                + factor_BQ[..., None] * rise_BC[:, None]
                - own_BQ[..., None] * table_GC[queries.gene_BQ]
            )
            return LENGTH * without_BQC * torch.rsqrt(square_BQ.clamp(min=0) + 1)[..., None]

    def _seen(self, gene_BL: Tensor, gene_BQ: Tensor) -> Tensor:
        """Return which tokens a query may see: all of its cell but its own."""
        seen_BQL = (gene_BL < self.n_genes)[:, None] & (gene_BL[:, None] != gene_BQ[..., None])
        always_BQ1 = torch.ones_like(seen_BQL[..., :1])
        return torch.cat([always_BQ1, seen_BQL], dim=-1)[:, None]

    def _log_rate(self, x_BQD: Tensor, linear_BQC: Tensor | None, gene_BQ: Tensor) -> Tensor:
        """Predict log CP10k of each query (B x Q)."""
        rate_BQ = (x_BQD * self.rate(gene_BQ)).sum(-1) + self.mean_G[gene_BQ]
        if linear_BQC is not None and self.component_rate is not None:
            rate_BQ = rate_BQ + (linear_BQC * self.component_rate(gene_BQ)).sum(-1)
        return rate_BQ.clamp(LEAST_LOG, LARGEST_LOG)


def own_part(own_BQ: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a query's values are taken for in a sum of risen values, and the rise.

    Without its counts the others have a larger share: log(1 / (1 - share)) more, to first order.
    """
    cp10k_BQ = torch.expm1(own_BQ)
    factor_BQ = -torch.log1p(-(cp10k_BQ / CP10K).clamp(max=0.99))
    return own_BQ + factor_BQ * cp10k_BQ / (1 + cp10k_BQ), factor_BQ


def count_loss(
    log_rate_BQ: Tensor, count_BQ: Tensor, total_B: Tensor, weight_BQ: Tensor, log_size: Tensor
) -> Tensor:
    """Weighted mean negative log-likelihood: negative binomial, mean total x CP10k / 10,000.

    Parameters
    ----------
    log_rate_BQ
        Log CP10k.
    count_BQ
        Counts.
    total_B
        Counts of each cell.
    weight_BQ
        What each counts: 0 where a gene was not measured, or a query is padding.
    log_size
        Logarithm of the size (the inverse of the dispersion).
    """
    mean_BQ = torch.exp(log_rate_BQ) * (total_B[:, None] / CP10K)
    size = torch.exp(log_size)
    loss_BQ = (
        torch.lgamma(size) + torch.lgamma(count_BQ + 1) - torch.lgamma(count_BQ + size)
        - size * (log_size - torch.log(size + mean_BQ))
        - count_BQ * (torch.log(mean_BQ + 1e-12) - torch.log(size + mean_BQ))
    )  # fmt: skip
    return (loss_BQ * weight_BQ).sum() / weight_BQ.sum().clamp(min=torch.finfo(torch.float32).tiny)
