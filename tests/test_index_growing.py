"""Cells come and go: the index is the one that would have been built of those it now has."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ArgumentError, FingerprintError
from scgp.own import model_index
from scgp.reference import store
from scgp.reference.answer import answer, streams_of
from scgp.reference.decision import Decision
from scgp.reference.fusion import Fusion
from scgp.reference.gene_head import GeneHead
from scgp.reference.index import ReferenceIndex
from scgp.reference.screening import removal_effects

ARRAYS = ("code_N", "study_N", "drawn_N", "text_TD", "head_weight_TD", "head_bias_T", "names_N")
PARTS = ("labels", "label_ids", "studies", "model_fingerprint", "calibration")


@pytest.fixture(scope="module")
def cells(model):
    """4,000 real cells of the default reference: vectors, labels, studies, names."""
    index = model_index(model)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~index.drawn_N))[:4000]
    labels = np.array(index.labels)[index.code_N[rows]]
    studies = np.array(index.studies)[index.study_N[rows]]
    return index.vectors_ND[rows], labels, studies, np.array([f"cell {i}" for i in rows])


@pytest.fixture(scope="module")
def terms(model):
    index = model_index(model)
    text = dict(zip(index.labels, index.text_TD, strict=True))
    return dict(zip(index.labels, index.label_ids, strict=True)), text


@pytest.fixture(scope="module")
def queries(all_blood, model):
    return scgp.embed(all_blood[:200].copy(), model=model, progress=False, copy=True).obsm["X_scgp"]


@pytest.fixture(scope="module")
def make(cells, terms):
    def of(rows, **options):
        vectors, labels, studies, names = (x[rows] for x in cells)
        order = sorted(set(labels))
        return ReferenceIndex.build(
            vectors, labels, label_ids=[terms[0][x] for x in order], studies=studies, names=names,
            text_TD=np.array([terms[1][x] for x in order]), model_fingerprint="model-a", **options,
        )  # fmt: skip

    return of


@pytest.fixture
def add(cells, terms):
    def to(index, rows, **options):
        vectors, labels, studies, names = (x[rows] for x in cells)
        order = sorted(set(labels))
        return index.add(
            vectors, labels, label_ids=[terms[0][x] for x in order], studies=studies, names=names,
            text_TD=np.array([terms[1][x] for x in order]), **options,
        )  # fmt: skip

    return to


def same(found, expected, queries):
    for name in PARTS:
        assert getattr(found, name) == getattr(expected, name), name
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    for one, other in zip(found.search(queries, 30), expected.search(queries, 30), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.vectors_ND, expected.vectors_ND)


def recall(found, expected, queries):
    rows = [index.search(queries, 15)[1] for index in (found, expected)]
    return np.mean([len({*a} & {*b}) / 15 for a, b in zip(*rows, strict=True)])


ALL, FIRST, REST = np.arange(3000), np.arange(1800), np.arange(1800, 3000)


def test_cells_added_one_build_after_the_other(make, add, queries):
    grown = add(add(make(FIRST), REST[:1]), REST[1:])
    same(grown, make(ALL), queries)
    assert len(grown.store.segments) == 1


def test_shards_merged_are_the_whole(make, queries):
    shards = [make(ALL[start : start + 1000]) for start in (0, 1000, 2000)]
    assert shards[0].labels != shards[1].labels
    same(ReferenceIndex.merge(shards), make(ALL), queries)


def test_cells_removed_are_as_if_never_there(make, queries):
    gone = np.concatenate([np.arange(5, 900, 3), [2999]])
    left = np.setdiff1d(ALL, gone)
    whole = make(ALL)
    same(whole.remove(gone), make(left), queries)
    same(whole.remove(np.isin(ALL, gone)), make(left), queries)
    assert whole.n_cells == 3000  # the index itself is as before


def test_a_label_and_a_study_go_with_their_last_cell(make, queries):
    whole = make(ALL)
    code = whole.cells_per_label_T.argmin()
    gone = (whole.code_N == code) | (whole.study_N == 0)
    thinner = whole.remove(gone)
    assert whole.labels[code] not in thinner.labels
    assert whole.studies[0] not in thinner.studies
    same(thinner, make(ALL[~gone]), queries)


def test_lists_with_cells_added_and_removed(make, add, queries):
    lists = make(ALL[:2500], search="lists")
    grown = add(lists, ALL[2500:])
    assert grown.store.segments[0] is lists.store.segments[0]  # shared, not copied
    assert [s.lists is None for s in grown.store.segments] == [False, True]
    assert recall(grown, make(ALL), queries) >= 0.99
    gone = np.arange(100, 2700, 2)
    left = np.setdiff1d(ALL, gone)
    thinner = grown.remove(gone)
    assert np.shares_memory(
        thinner.store.segments[0].vectors_MD, lists.store.segments[0].vectors_MD
    )
    expected = make(left)
    assert recall(thinner, expected, queries) >= 0.99
    for name in (*ARRAYS, "vectors_ND"):
        np.testing.assert_array_equal(getattr(thinner, name), getattr(expected, name), name)
    rows = np.array([[0, 700, 1699], [3, 1500, 1600]])
    np.testing.assert_array_equal(thinner.vectors_at(rows), expected.vectors_ND[rows])
    cosine_BK, row_BK = thinner.search(queries, 10)
    np.testing.assert_array_equal(
        cosine_BK, np.einsum("bd,bkd->bk", queries, expected.vectors_ND[row_BK])
    )
    same(thinner.compact(search="exact"), expected, queries)


def test_removing_twice_counts_on(make):
    lists = make(ALL[:2000], search="lists")
    twice = lists.remove(np.arange(0, 2000, 2)).remove([0, 1, 2])
    np.testing.assert_array_equal(twice.vectors_ND, lists.vectors_ND[1::2][3:])
    assert twice.names_N[0] == lists.names_N[7]
    emptied = ReferenceIndex.merge([lists, make(ALL[2000:])]).remove(np.arange(2000))
    assert len(emptied.store.segments) == 1
    np.testing.assert_array_equal(emptied.names_N, make(ALL[2000:]).names_N)


def test_shards_with_lists_are_shared(make, queries):
    shards = [make(ALL[:1500], search="lists"), make(ALL[1500:], search="lists")]
    merged = ReferenceIndex.merge(shards)
    for segment, shard in zip(merged.store.segments, shards, strict=True):
        assert segment is shard.store.segments[0]
    assert recall(merged, make(ALL), queries) >= 0.99
    assert merged.recall == min(shard.recall for shard in shards)
    compact = merged.compact(search="lists")
    assert len(compact.store.segments) == 1
    assert recall(compact, make(ALL), queries) >= 0.99


def test_what_grows_above_the_bound_gets_lists(make, add, monkeypatch):
    monkeypatch.setattr(store, "EXACT_CELLS", 2000)
    grown = add(make(FIRST), ALL[1800:2000])
    assert grown.store.is_exact
    grown = add(grown, ALL[2000:2100])
    assert [(s.n_cells, s.lists is None) for s in grown.store.segments] == [(2100, False)]
    chosen = add(make(ALL[:2500], search="exact"), ALL[2500:])
    assert chosen.store.is_exact  # was wanted so, above the bound
    assert len(chosen.store.segments) == 1
    assert add(make(FIRST), REST, search="exact").store.is_exact
    assert not add(make(FIRST), REST[:10], search="lists").store.is_exact


def test_the_head_can_be_shared_as_it_was(make, add, queries):
    n_labels = len(make(ALL).labels)
    likeness = np.eye(n_labels) * 0.5 + 0.5
    same(add(make(FIRST), REST, likeness_TT=likeness), make(ALL, likeness_TT=likeness), queries)
    with pytest.raises(ArgumentError, match="likeness_TT has the shape"):
        add(make(FIRST), REST, likeness_TT=np.eye(2))


def test_what_cannot_be_compared_is_refused(make, terms):
    index = make(ALL[:50])
    other = dataclasses.replace(index, model_fingerprint="model-b")
    with pytest.raises(FingerprintError, match="index 1 of those to merge was made by the model"):
        ReferenceIndex.merge([index, other])
    narrow = ReferenceIndex.build(
        np.eye(4, dtype=np.float32), [*"abcd"], label_ids=[""] * 4, model_fingerprint="model-a"
    )
    with pytest.raises(ArgumentError, match=r"widths \(4, 4\), the first has \(128, 128\)"):
        ReferenceIndex.merge([index, narrow])
    with pytest.raises(ArgumentError, match="widths"):
        index.add(np.eye(4, dtype=np.float32), [*"abcd"], text_TD=np.zeros((4, 128)))
    centred = [dataclasses.replace(index, centre_D=np.full(128, x, "f4")) for x in (0, 1)]
    with pytest.raises(ArgumentError, match="another mean"):
        ReferenceIndex.merge(centred)
    renamed = dataclasses.replace(index, label_ids=["CL:1", *index.label_ids[1:]])
    with pytest.raises(ArgumentError, match=r"has the term .* in one index"):
        ReferenceIndex.merge([index, renamed])
    with pytest.raises(ArgumentError, match="no index to merge"):
        ReferenceIndex.merge([])
    with pytest.raises(ArgumentError, match="not of unit length"):
        index.add(np.ones((1, 128), np.float32), ["x"])


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (np.arange(50), "all 50 cells"),
        ([50], "from 50 to 50; expected 0 to 49"),
        ([-1], "from -1"),
        ([True, False], "50 values that are True or False"),
        ([1.5], "rows .whole numbers"),
    ],
)
def test_rows_that_cannot_be_removed(make, removed, message):
    with pytest.raises(ArgumentError, match=message):
        make(ALL[:50]).remove(removed)


def test_nothing_removed_is_the_same(make, queries):
    index = make(ALL[:300])
    same(index.remove([]), index, queries)


def test_without_a_change_answers_do_not_change(make, queries):
    """Head shared between like labels, calibration measured on the cells: both are kept."""
    n_labels = len(make(ALL[:300]).labels)
    fusion = Fusion(novelty_text=0.3, set_mass=(0.5,), set_cells=9)
    likeness = np.eye(n_labels) * 0.5 + 0.5
    index = make(ALL[:300], calibration=fusion, likeness_TT=likeness)
    for found in (index.remove([]), index.remove(np.zeros(300, bool)), index.merge([index])):
        assert found is index
    listed = index.merge([index], search="lists")
    assert not listed.store.is_exact
    same(listed.compact(search="exact"), index, queries)
    with pytest.raises(ArgumentError, match="search is 'list'"):
        index.merge([index], search="list")
    # asked for, the head is fitted anew
    same(index.remove([], likeness_TT=likeness).merge([index], likeness_TT=likeness),
         dataclasses.replace(index, calibration=Fusion()), queries)  # fmt: skip


def test_what_is_made_of_an_opened_index_was_not_opened(make, tmp_path):
    make(ALL[:300]).save(tmp_path / "a.scgp")
    index = ReferenceIndex.load(tmp_path / "a.scgp")
    made = [
        index.remove([0]), index.merge([index, index]), index.merge([index], search="exact"),
        index.add(index.vectors_at(np.array([0])), index.labels[:1]), index.compact(),
    ]  # fmt: skip
    make(ALL[:200]).save(tmp_path / "a.scgp", overwrite=True)
    for one in made:
        assert one.opened is None
        one.check()  # not of the directory, which holds another one now


def test_names_and_terms_may_be_missing(make, terms, cells):
    index = make(ALL[:300])
    grown = index.add(cells[0][300:302], [index.labels[0], "new to all"])
    assert grown.names_N[298:].tolist() == [*index.names_N[298:], "", ""]
    place = grown.labels.index("new to all")
    assert grown.label_ids[place] == ""
    assert not grown.text_TD[place].any()
    np.testing.assert_array_equal(
        grown.text_TD[grown.labels.index(index.labels[0])], index.text_TD[0]
    )
    assert "" in grown.studies


def test_the_first_index_with_a_text_says_what_it_is(make):
    first, second = make(ALL[:100]), make(ALL[:200])
    label = first.labels[0]
    other = dataclasses.replace(second, text_TD=-second.text_TD)
    merged = ReferenceIndex.merge([first, other])
    np.testing.assert_array_equal(merged.text_TD[merged.labels.index(label)], first.text_TD[0])
    new = next(label for label in second.labels if label not in first.labels)
    place = other.labels.index(new)
    np.testing.assert_array_equal(merged.text_TD[merged.labels.index(new)], other.text_TD[place])


def test_what_was_measured_on_the_old_cells_is_not_promised(make, add):
    fusion = Fusion(k=7, novelty_text=0.3, novelty_threshold=0.4, set_mass=(0.5,), set_cells=9)
    index = make(FIRST, calibration=fusion)
    expected = Fusion(k=7, novelty_threshold=0.4)
    assert add(index, REST).calibration == expected
    assert index.remove([0]).calibration == expected


def tokens_of(adata, model):
    token_V = model.genes.match(adata.var_names).token_of_column
    return model.tokenizer.tokenize(sp.csr_matrix(adata.X), token_V), token_V


def test_a_label_new_to_the_gene_head_is_answered(blood_index, all_blood, model):
    """B cells are left out of the index, then added: the gene head has never seen them."""
    code = blood_index.label_ids.index("CL:0000236")
    label = blood_index.labels[code]
    rows = np.flatnonzero(blood_index.code_N == code)
    atlas = all_blood[120:].copy()
    others = atlas[atlas.obs["cell_type"] != "CL:0000236"].copy()
    before = scgp.build_index(others, label_key="cell_type", model=model, progress=False)
    after = before.add(
        blood_index.vectors_at(rows), [label] * len(rows), label_ids=["CL:0000236"],
        text_TD=blood_index.text_TD[[code]],
    )  # fmt: skip
    place = after.labels.index(label)
    head = after.gene_head
    assert np.flatnonzero(np.isnan(head.bias_T)).tolist() == [place]
    kept = np.delete(np.arange(len(after.labels)), place)
    np.testing.assert_array_equal(head.weight_HT[:, kept], before.gene_head.weight_HT)
    asked = all_blood[:120].copy()
    truth = asked.obs["cell_type"].to_numpy() == "CL:0000236"
    scgp.annotate(asked, index=after, progress=False)
    found = asked.obs["scgp_cell_type"].to_numpy() == label
    assert found[truth].mean() > 0.8
    assert found[~truth].mean() < 0.05
    assert np.isfinite(asked.obs["scgp_confidence"]).all()
    scgp.annotate(asked, index=after, labels=["B cell", "T cell"], progress=False)
    assert (asked.obs["scgp_cell_type"].to_numpy() == "B cell")[truth].mean() > 0.8
    tokens, token_V = tokens_of(asked[truth], model)
    scores = head.scores(
        tokens.values(model.config.n_genes), np.isin(np.arange(model.config.n_genes), token_V)
    )
    lost = removal_effects(
        model.network, tokens, after, scores, np.arange(len(after.labels)) == place
    )
    assert np.isfinite(lost).all()
    assert np.abs(lost).max() > 0
    # and the other labels have what the gene head said of them before
    again = after.remove(np.flatnonzero(after.code_N == place))
    np.testing.assert_array_equal(again.gene_head.bias_T, before.gene_head.bias_T)
    np.testing.assert_array_equal(again.gene_head.weight_HT, before.gene_head.weight_HT)


def test_the_streams_of_a_label_new_to_the_gene_head(blood_index):
    """Synthetic scores: the gene stream is silent on the new label, the others are not."""
    new = blood_index.add(blood_index.vectors_at(np.array([0])), ["new"])
    place = new.labels.index("new")
    n = len(new.labels)
    cell_BE = blood_index.vectors_at(np.arange(3))
    score_BS = np.zeros((3, new.gene_head.n_scores), np.float32)
    score_BS[:, place] = np.nan
    streams, _ = streams_of(new, cell_BE, cell_BE, score_BS, new.calibration)
    for name in ("gene", "described"):
        assert np.isnan(streams[name][:, place]).all()
        np.testing.assert_allclose(np.nansum(streams[name], axis=1), 1)
    for name in ("neighbour", "head"):
        assert np.isfinite(streams[name]).all()
        assert streams[name].shape == (3, n)
    said = Decision.join(list(answer(new, cell_BE, cell_BE, score_BS)))
    assert np.isfinite(said.confidence).all()


def test_a_gene_head_that_knows_nothing_is_left_out(make, add, cells):
    index = make(ALL[:100])
    head = GeneHead(
        gene_H=np.arange(2, dtype=np.int32), scale_H=np.ones(2, np.float32),
        mean_H=np.ones(2, np.float32), weight_HT=np.ones((2, len(index.labels)), np.float16),
        bias_T=np.ones(len(index.labels), np.float32),
    )  # fmt: skip
    index = dataclasses.replace(index, gene_head=head)
    grown = index.add(cells[0][100:103], ["new"] * 3)
    assert grown.remove(np.arange(100)).gene_head is None
    assert add(index, ALL[:100]).gene_head is head  # the same labels


def test_a_gene_head_of_a_later_index_is_taken_if_the_first_has_none(blood_index, make):
    bare = dataclasses.replace(blood_index, gene_head=None, profiles=None)
    merged = ReferenceIndex.merge([bare, blood_index])
    assert merged.gene_head is blood_index.gene_head
    assert merged.profiles is blood_index.profiles
