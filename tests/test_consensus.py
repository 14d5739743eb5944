"""annotate(smooth=...): one answer for each cluster, by its rule and on real cells."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

import scgp
from scgp.errors import ArgumentError, MissingColumnError, ScgpWarning
from scgp.phenotypes.ontology import Ontology
from scgp.reference.broad_terms import says_something
from scgp.reference.consensus import agree
from scgp.reference.decision import Decision

CELLS = Ontology("CL")
LABEL, TERM, SHARE = (f"scgp_smooth_{n}" for n in ("cell_type", "cell_type_ontology_term_id",
                                                   "share"))  # fmt: skip
OWN = ["scgp_cell_type", "scgp_cell_type_ontology_term_id", "scgp_confidence", "scgp_status",
       "scgp_novelty"]  # fmt: skip
MONOCYTE, CD14, CLASSICAL = "CL:0000576", "CL:0001054", "CL:0000860"
CD14_CLASSICAL = "CL:0002057"  # lies below all three
T_CELL, CD4_T, CD8_T, B_CELL = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236"
KILLER, LYMPHOCYTE, HEPATOCYTE = "CL:0000623", "CL:0000542", "CL:0000182"


def decided(terms, weights=None):
    """Return a decision: "" is unknown, None an empty cell, and what is no id has none."""
    known = [t for t in terms if t]
    ids = [t if t in known and CELLS.is_term(t) else "" for t in terms]
    names = [None if t is None else "unknown" if t == "" else CELLS.label(t) if i else t
             for t, i in zip(terms, ids, strict=True)]  # fmt: skip
    status = ["empty" if t is None else "labelled" if t else "unknown" for t in terms]
    sure = np.array([1.0] * len(terms) if weights is None else weights, np.float32)
    names, ids, status = (np.array(x, object) for x in (names, ids, status))
    return Decision(names, ids, sure, status, names, sure)


def called(terms, weights=None, **options):
    """Return id (or name) and share of one cluster of cells."""
    found = agree(decided(terms, weights), np.zeros(len(terms), int), CELLS, **options)
    there = [t is not None for t in terms]
    (answer,) = set(zip(found.label[there], found.ontology_id[there], strict=True))
    return answer[1] or answer[0], float(found.share[there][0])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({MONOCYTE: 10}, MONOCYTE),
        ({MONOCYTE: 40, CD14: 30, CD14_CLASSICAL: 30}, CD14_CLASSICAL),  # the deepest of a line
        ({MONOCYTE: 30, CD14: 30, CLASSICAL: 40}, CLASSICAL),  # the ontology has no order of these
        ({MONOCYTE: 40, CD14: 30, CLASSICAL: 30}, MONOCYTE),
        ({MONOCYTE: 76, CLASSICAL: 24}, MONOCYTE),  # too few go deeper
        ({MONOCYTE: 75, CLASSICAL: 25}, CLASSICAL),
        ({T_CELL: 10, CD4_T: 45, CD8_T: 45}, T_CELL),  # no majority among those that go deeper
        ({T_CELL: 10, CD4_T: 46, CD8_T: 44}, CD4_T),
        ({CD4_T: 45, CD8_T: 45, B_CELL: 10}, "CL:0000791"),  # no cell says mature ab T cell
        ({T_CELL: 50, KILLER: 50}, LYMPHOCYTE),  # a half is no majority
        ({T_CELL: 40, "": 60}, "unknown"),
        ({T_CELL: 60, "": 40}, T_CELL),
        ({T_CELL: 50, "": 50}, "unknown"),
        ({HEPATOCYTE: 50, T_CELL: 50}, "unknown"),  # all they share says nothing
        ({"mine": 60, T_CELL: 40}, "mine"),  # a label outside the ontology has its own votes
        ({"mine": 50, T_CELL: 50}, "unknown"),
    ],
)
def test_the_rule(counts, expected):
    terms = [term for term, n in counts.items() for _ in range(n)]
    assert called(terms)[0] == expected
    assert called(terms[::-1])[0] == expected


def test_the_share_counts_cells_on_one_line_and_no_weight():
    terms = [MONOCYTE, CLASSICAL, CLASSICAL, B_CELL, None]
    assert called(terms, [0.1, 1, 1, 0.1, 0]) == (CLASSICAL, 0.75)
    assert called(["", "", "", B_CELL])[1] == 0.75


def test_votes_have_the_weight_of_their_confidence():
    assert called([B_CELL, B_CELL, T_CELL], [0.2, 0.2, 0.9])[0] == T_CELL
    assert called([B_CELL, B_CELL, T_CELL], [0.0, 0.0, 0.0])[0] == B_CELL  # then each counts


def test_mostly_unknown_cells_stay_unknown_however_sure_the_others_are():
    assert called([B_CELL] * 4 + [""] * 6, [1.0] * 4 + [0.1] * 6) == ("unknown", pytest.approx(0.6))


def test_clusters_do_not_hear_of_each_other():
    """ "lymphocyte" is an answer of another cluster, and still a broader term of this one."""
    terms = [T_CELL, KILLER, LYMPHOCYTE]
    found = agree(decided(terms), np.array([0, 0, 1]), CELLS)
    assert found.ontology_id.tolist() == [LYMPHOCYTE] * 3
    assert found.share.tolist() == [1.0] * 3


def test_broader_terms_are_those_asked_for_with_their_names():
    mixed = [CD4_T] * 5 + [CD8_T] * 5
    assert called(mixed, broader={T_CELL: "T cell", CD4_T: "x", CD8_T: "y"})[0] == T_CELL
    assert called(mixed, broader={CD4_T: "x", CD8_T: "y"})[0] == "unknown"


def test_a_term_has_the_name_that_the_reference_gives_it():
    mature = "CL:0000791"
    mixed = decided([CD4_T] * 5 + [CD8_T] * 5)
    found = agree(mixed, np.zeros(10, int), CELLS, own_names={mature: "mine", T_CELL: "other"})
    assert set(zip(found.label, found.ontology_id, strict=True)) == {("mine", mature)}


def test_empty_cells_and_cells_without_a_cluster():
    terms = [B_CELL, T_CELL, None, T_CELL, T_CELL, None]
    found = agree(decided(terms), np.array([-1, 4, 4, 4, 4, -1]), CELLS)
    assert found.ontology_id.tolist() == [B_CELL, T_CELL, None, T_CELL, T_CELL, None]
    np.testing.assert_array_equal(found.share, np.float32([np.nan, 1, np.nan, 1, 1, np.nan]))
    nobody = agree(decided([]), np.zeros(0, int), CELLS)
    assert len(nobody.label) == 0


TERMS = [MONOCYTE, CD14, CLASSICAL, T_CELL, CD4_T, CD8_T, B_CELL, KILLER, LYMPHOCYTE, HEPATOCYTE]
CELL = st.tuples(st.sampled_from([*TERMS, "", None, "mine"]), st.integers(-1, 2), st.floats(0, 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(CELL, max_size=25), st.randoms())
def test_whatever_cells_say(cells, random):
    terms, clusters, weights = (list(x) for x in zip(*cells, strict=True)) if cells else ([],) * 3
    decision = decided(terms, weights)
    before = [x.copy() for x in (decision.label, decision.ontology_id)]
    cluster_B = np.array(clusters, int)
    found = agree(decision, cluster_B, CELLS)
    for old, now in zip(before, (decision.label, decision.ontology_id), strict=True):
        assert old.tolist() == now.tolist()
    order = list(range(len(cells)))
    random.shuffle(order)
    names = np.array([7, 3, 5, -1])[cluster_B[order]]  # clusters by other names
    mixed = agree(decided([terms[i] for i in order], [weights[i] for i in order]), names, CELLS)
    assert mixed.label.tolist() == found.label[order].tolist()
    for cluster in set(clusters) - {-1}:
        rows = [b for b in range(len(cells)) if clusters[b] == cluster and terms[b] is not None]
        if not rows:
            continue
        (label,) = set(found.label[rows])
        (share,) = set(found.share[rows].tolist())
        (term,) = set(found.ontology_id[rows])
        line = CELLS.ancestors(term) if term else set()
        near = [terms[b] in line or (bool(term) and CELLS.is_term(terms[b] or "") and
                term in CELLS.ancestors(terms[b])) or decision.label[b] == label
                for b in rows]  # fmt: skip
        assert share == pytest.approx(np.mean(near))
        assert label in {*decision.label[rows], "unknown"} or says_something(term, CELLS)
        if np.mean([terms[b] == "" for b in rows]) > 0.5:
            assert label == "unknown"


# On real cells


@pytest.fixture(scope="module")
def clustered(all_blood):
    """120 blood cells with clusters of their own expression, and their vectors by PCA."""
    logged = all_blood.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.pca(logged, n_comps=20)
    # stands for Leiden's, which needs a further package
    found = KMeans(12, random_state=0, n_init=1).fit_predict(logged.obsm["X_pca"])
    adata = all_blood.copy()
    adata.obs["leiden"] = pd.Categorical(found.astype(str))
    adata.obsm["X_mine"] = logged.obsm["X_pca"]
    return adata


@pytest.fixture
def query(clustered):
    return clustered[:120].copy()


def text(frame):
    return frame.astype(object).where(frame.notna(), None)


def test_answers_of_clusters_stand_beside_those_of_cells(query, annotate, annotated):
    annotate(query, smooth="leiden")
    pd.testing.assert_frame_equal(query.obs[OWN], annotated.obs[OWN])
    assert query.uns["scgp"]["smooth"] == "leiden"
    assert "smooth" not in annotated.uns["scgp"]
    assert not {LABEL, TERM, SHARE} & set(annotated.obs)
    assert isinstance(query.obs[LABEL].dtype, pd.CategoricalDtype)
    assert isinstance(query.obs[TERM].dtype, pd.CategoricalDtype)
    assert query.obs[SHARE].dtype == np.float32
    for _, cells in query.obs.groupby("leiden", observed=True):
        assert cells[LABEL].nunique() == cells[TERM].nunique() == cells[SHARE].nunique() == 1
        own = cells["scgp_cell_type"].value_counts(normalize=True)
        if own.iloc[0] > 0.8:
            assert cells[SHARE].iloc[0] >= own.iloc[0] - 1e-6
    assert (query.obs[LABEL].astype(str) != query.obs["scgp_cell_type"].astype(str)).any()
    known = text(query.obs).query(f"{TERM} != ''")
    assert (known[TERM].map(CELLS.label) == known[LABEL]).all()


@pytest.mark.parametrize("kind", ["category", str, int, float])
def test_clusters_of_any_type_of_column(query, annotate, kind):
    annotate(query, smooth="leiden")
    query.obs["other"] = query.obs["leiden"].astype(int).astype(kind)
    other = annotate(query, smooth="other", copy=True)
    pd.testing.assert_frame_equal(other.obs[[LABEL, SHARE]], query.obs[[LABEL, SHARE]])


def test_cells_without_a_cluster_keep_their_label_and_empty_ones_have_none(query, annotate):
    query.X = sp.diags_array(np.repeat([0.0, 1.0], [2, 118])).tocsr() @ query.X
    query.obs.loc[query.obs_names[1:10], "leiden"] = np.nan
    with pytest.warns(ScgpWarning, match="2 of 120 cells have no count"):
        annotate(query, smooth="leiden")
    obs = text(query.obs)
    assert obs[LABEL].isna().tolist() == [True] * 2 + [False] * 118
    assert obs[TERM].isna().tolist() == [True] * 2 + [False] * 118
    assert obs[SHARE].isna().tolist() == [True] * 10 + [False] * 110
    for smooth, own in ((LABEL, "scgp_cell_type"), (TERM, "scgp_cell_type_ontology_term_id")):
        assert obs[smooth].iloc[2:10].tolist() == obs[own].iloc[2:10].tolist()


def test_labels_that_were_asked_for_and_no_others(query, annotate):
    asked = [
        "B cell",
        "T cell",
        "natural killer cell",
        "monocyte",
        "CD4-positive, alpha-beta T cell",
    ]
    annotate(query, smooth="leiden", labels=asked)
    assert set(query.obs[LABEL].cat.categories) <= {*asked, "unknown"}
    assert query.obs[LABEL].nunique() > 2
    query.obs["one"] = "all"  # what they share is no label that was asked for
    annotate(query, smooth="one", labels=["B cell", "T cell", "natural killer cell", "monocyte"])
    assert set(query.obs[LABEL]) == {"unknown"}
    annotate(query, smooth="one", labels=["B cell", "T cell", "leukocyte"])
    assert set(query.obs[LABEL]) == {"leukocyte"}


def test_a_representation_a_reference_a_view_and_another_key(clustered, query, blood_index, model):
    atlas = clustered[120:].copy()
    options = {"reference": atlas, "label_key": "cell_type", "progress": False, "smooth": "leiden"}
    with pytest.warns(ScgpWarning, match="not calibrated"):
        scgp.annotate(query, use_rep="X_mine", key_added="rep", **options)
    assert query.obs.groupby("leiden", observed=True)["rep_smooth_cell_type"].nunique().max() == 1
    assert "X_rep" not in query.obsm
    assert query.uns["rep"]["smooth"] == "leiden"
    scgp.annotate(query, key_added="own", **options)
    by_index = scgp.annotate(query[::-1], index=blood_index, smooth="leiden", progress=False,
                             copy=True)[query.obs_names]  # fmt: skip
    assert by_index.obs[LABEL].tolist() == query.obs["own_smooth_cell_type"].tolist()
    assert not [name for name in query.obs if name.startswith("scgp_")]


def test_dask_and_backed(query, annotate, tmp_path):
    da = pytest.importorskip("dask.array")
    expected = annotate(query, smooth="leiden", copy=True).obs[[LABEL, TERM, SHARE]]
    query.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    annotate(backed, smooth="leiden")
    pd.testing.assert_frame_equal(backed.obs[[LABEL, TERM, SHARE]], expected)
    query.X = da.from_array(query.X.toarray(), chunks=(50, -1))
    annotate(query, smooth="leiden")
    pd.testing.assert_frame_equal(query.obs[[LABEL, TERM, SHARE]], expected)
    backed.file.close()


def test_smoothed_answers_survive_a_file(query, annotate, tmp_path):
    annotate(query, smooth="leiden")
    query.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(again.obs[[LABEL, TERM, SHARE]], query.obs[[LABEL, TERM, SHARE]])


@pytest.mark.parametrize(
    ("smooth", "error", "message"),
    [
        ("Lieden", MissingColumnError, "no column 'Lieden', did you mean 'leiden'"),
        ("clusters", MissingColumnError, "no column 'clusters'; its columns: "),
        (True, ArgumentError, "smooth is True; expected the name of a column of obs"),
        ("nothing", ArgumentError, "no value in any cell"),
        (
            "amount",
            ArgumentError,
            r"obs\['amount'\] holds numbers such as 0, 120 different .*pd\.cut",
        ),
    ],
)
def test_columns_that_are_none_are_refused_before_any_work(query, state, smooth, error, message):
    query.obs["nothing"] = np.nan
    query.obs["amount"] = np.arange(query.n_obs)
    before = state(query)
    with pytest.raises(error, match=message):
        scgp.annotate(query, smooth=smooth, index="nowhere", progress=False)
    assert state(query) == before


# Columns of an earlier call


@pytest.fixture
def set_index(blood_index):
    mass = tuple(np.linspace(0.0, 0.9, 99))
    calibration = dataclasses.replace(blood_index.calibration, set_mass=mass, set_cells=500)
    return dataclasses.replace(blood_index, calibration=calibration)


def test_columns_of_an_earlier_call_do_not_stay_beside_new_labels(query, set_index):
    options = {"index": set_index, "progress": False}
    query.obs["scgp_settled"] = query.obs["scgp_smooth"] = query.obs["set"] = 1
    scgp.annotate(query, coverage=0.9, smooth="leiden", key_added="mine", **options)
    scgp.annotate(query, coverage=0.9, smooth="leiden", **options)
    assert {"scgp_set", "scgp_set_size", LABEL, TERM, SHARE} <= set(query.obs)
    before = list(query.obs)
    scgp.annotate(query, labels=["B cell", "T cell"], smooth="leiden", **options)
    assert list(query.obs) == [n for n in before if n not in {"scgp_set", "scgp_set_size"}]
    scgp.annotate(query, **options)
    assert not {LABEL, TERM, SHARE} & set(query.obs)
    assert {"scgp_settled", "scgp_smooth", "set", "mine_set", "mine_set_size",
            "mine_smooth_share", "leiden"} <= set(query.obs)  # fmt: skip


def test_a_key_that_reads_like_a_column_of_another_keeps_its_columns(query, annotate):
    annotate(query, key_added="scgp_smooth")
    annotate(query)
    assert query.obs[LABEL].tolist() == query.obs["scgp_cell_type"].tolist()


def test_a_call_that_fails_brings_earlier_columns_back_to_their_place(
    query, set_index, state, monkeypatch
):
    options = {"index": set_index, "progress": False}
    scgp.annotate(query, coverage=0.9, smooth="leiden", **options)
    query.obs["last"] = 1
    before = state(query)
    real, calls = pd.DataFrame.__delitem__, []

    def fails(self, name):
        real(self, name)
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "__delitem__", fails)
        with pytest.raises(KeyboardInterrupt):
            scgp.annotate(query, labels=["B cell"], **options)
    assert len(calls) == 3
    assert state(query) == before


# Sets of a reference that promises none


@pytest.mark.parametrize("use_rep", [None, "X_mine"])
def test_coverage_of_an_atlas_is_refused_before_it_is_embedded(query, state, monkeypatch, use_rep):
    def embedded(*_, **__):
        pytest.fail("the atlas was embedded")

    monkeypatch.setattr("scgp.which.build_index", embedded)
    before = state(query)
    with pytest.raises(ArgumentError, match="held-out studies, and a reference of one's own has"):
        scgp.annotate(query, reference=query, label_key="cell_type", coverage=0.9, use_rep=use_rep)
    assert state(query) == before
