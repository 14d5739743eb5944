"""Which genes a batch keeps when it loses some and takes the gene set of another platform."""

import numpy as np
import pytest
import scipy.sparse as sp

from scgp.cells import sampling
from scgp.cells.corpus import Corpus
from scgp.cells.sampling import Sampler
from scgp.cells.tokens import Tokenizer

N_GENES, ON_PANEL = 80, 40


def genes_of(step):
    """Return the genes of a batch of synthetic cells which all express every gene."""
    text = np.full(12, "", dtype=object)
    zero = np.zeros(12, np.int64)
    corpus = Corpus(
        count_NG=sp.csr_matrix(np.ones((12, N_GENES), np.uint16)),
        label_N=text, tissue_N=text, disease_N=text, study_N=zero, donor_N=zero,
        drawn_N=zero > 0, source_N=zero, studies=("a",),
        measured_SG=np.arange(N_GENES)[None] < ON_PANEL,
    )  # fmt: skip
    tokenizer = Tokenizer(N_GENES, 16, np.ones(N_GENES, np.float32))
    sampler = Sampler(corpus, zero, tokenizer, batch_size=8, drawn_share=0.0, seed=1)
    return np.unique(sampler.batch(step).tokens.pool_gene_N)


@pytest.mark.parametrize("step", range(4))
def test_a_panel_that_would_lose_too_many_genes_loses_none_synthetic(monkeypatch, step):
    for name, value in (("PLATFORM_RATE", 1.0), ("THINNING_RATE", 0.0), ("LEAST_GENES", 20)):
        monkeypatch.setattr(sampling, name, value)
    monkeypatch.setattr(sampling, "GENE_DROPOUT", (0.8,))
    assert genes_of(step).tolist() == list(range(ON_PANEL))
    monkeypatch.setattr(sampling, "GENE_DROPOUT", (0.2,))
    few = genes_of(step)
    assert 20 <= len(few) < ON_PANEL
    assert few.max() < ON_PANEL
