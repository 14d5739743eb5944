"""Warnings name the line of the user's code, however deep in the package the reason was found."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ScgpWarning, warn_user


@pytest.fixture
def atlas(blood):
    """Blood cells: a few without a label, a few whose label is no term."""
    labels = ["my own"] * 20 + [None] * 10 + ["B cell"] * 90
    blood.obs["label"] = pd.Series(labels, index=blood.obs_names)
    return blood


def _build_index(atlas, query):
    return scgp.build_index(atlas, label_key="label", progress=False)


def _annotate(atlas, query):
    return scgp.annotate(query, reference=atlas, label_key="label", progress=False)


def _annotate_empty(atlas, query):
    query.X = sp.csr_matrix(query.shape, dtype=np.float32)
    return scgp.annotate(query, progress=False)


def _embed_empty(atlas, query):
    query.X = sp.csr_matrix(query.shape, dtype=np.float32)
    return scgp.embed(query, progress=False)


def _embed_few_genes(atlas, query):
    return scgp.embed(query[:, :100].copy(), progress=False)


def _embed_repeated_genes(atlas, query):
    names = query.var_names.tolist()
    query.var_names = [names[1], *names[1:]]
    return scgp.embed(query, progress=False)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (_build_index, {"10 of 120 cells have no label", "1 of 2 labels"}),
        (_annotate, {"10 of 120 cells have no label", "1 of 2 labels"}),
        (_annotate_empty, {"20 of 20 cells"}),
        (_embed_empty, {"20 of 20 cells"}),
        (_embed_few_genes, {"few genes in common"}),
        (_embed_repeated_genes, {"2 names stand for 1 genes"}),
    ],
)
def test_a_warning_names_the_line_that_called_the_verb(all_blood, atlas, verb, words):
    with pytest.warns(ScgpWarning) as caught:
        verb(atlas, all_blood[:20].copy())
    ours = [warning for warning in caught if warning.category is ScgpWarning]
    assert len(ours) == len(words)
    for warning in ours:
        assert any(word in str(warning.message) for word in words)
        assert warning.filename == __file__
        first = verb.__code__.co_firstlineno
        assert first < warning.lineno < first + 5


def test_a_warning_is_said_once_a_line_and_can_be_an_error():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_user("the same")
        warn_user("the same")
    assert [warning.lineno for warning in caught] == sorted({w.lineno for w in caught})
    assert len(caught) == 2
    with pytest.raises(ScgpWarning, match="the same"):  # warnings are errors in these tests
        warn_user("the same")
