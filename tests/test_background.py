"""What a model's own terms say beside a reference that is not its own."""

import dataclasses
import itertools

import numpy as np
import pytest

import scgp
from scgp.model.checkpoint import Model
from scgp.own import model_index
from scgp.phenotypes.ontology import Ontology
from scgp.reference.answer import streams_of
from scgp.reference.background import LEAST_CELLS, WEIGHT, Background, lies_outside
from scgp.reference.evidence import fuse

T_CELL, CD4, CD8, B_CELL, PLASMA = (
    "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000786",
)  # fmt: skip
LYMPHOCYTE, HEPATOCYTE, NEURON = "CL:0000542", "CL:0000182", "CL:0000540"


def _background(label_ids, terms=(CD4, CD8, B_CELL, HEPATOCYTE), read=None):
    """Texts are the axes of the space, so that a cell on an axis is read as its term."""
    code_N = np.arange(len(label_ids)) if read is not None else np.zeros(0, int)
    type_ND = np.zeros((0, len(terms))) if read is None else read
    return Background.make(
        list(terms), np.eye(len(terms), dtype=np.float32), label_ids=label_ids,
        type_ND=np.asarray(type_ND, np.float32), code_N=code_N, temperature=0.05,
    )  # fmt: skip


def _axes(*which, n=4):
    return np.eye(n, dtype=np.float32)[list(which)]


# ---- from terms to labels (synthetic) ----


def test_a_term_speaks_for_the_deepest_label_that_it_is_or_lies_below():
    background = _background([CD4, LYMPHOCYTE, T_CELL])
    prior_BT = background.read(_axes(0, 1, 2), 0.05).prior_BT
    np.testing.assert_allclose(prior_BT, [[1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-6)


def test_a_term_above_the_labels_speaks_for_all_below_it():
    background = _background([CD4, CD8, B_CELL], terms=(T_CELL, B_CELL, HEPATOCYTE, NEURON))
    prior_BT = background.read(_axes(0), 0.05).prior_BT
    np.testing.assert_allclose(prior_BT, [[0.5, 0.5, 0]], atol=1e-6)


def test_what_no_label_stands_for_is_not_covered():
    background = _background([T_CELL, B_CELL])
    reading = background.read(_axes(0, 2, 3), 0.05)
    np.testing.assert_allclose(reading.covered_B, [1, 1, 0], atol=1e-6)
    terms = Ontology("CL").closure([T_CELL, B_CELL])
    mass_A = dict(zip(terms, reading.mass_BA[0], strict=True))
    assert mass_A[T_CELL] == pytest.approx(1, abs=1e-6)
    assert mass_A[LYMPHOCYTE] == pytest.approx(1, abs=1e-6)
    assert mass_A[B_CELL] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("unknown", [PLASMA, "", NEURON])
def test_the_cells_of_a_label_new_to_the_model_say_what_it_is_read_as(unknown):
    """They are read as CD8 T cells, which the reference has a label for, too."""
    read = np.stack([_axes(0)[0], _axes(1)[0], _axes(1)[0]])
    background = _background([CD4, CD8, unknown], read=read)
    assert background.known_T.tolist() == [True, True, False]
    reading = background.read(_axes(1, 3), 0.05)
    np.testing.assert_allclose(reading.prior_BT[0], [0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(reading.covered_B, [1, 0], atol=1e-6)
    alone = _background([CD4, unknown], read=read[[0, 1]]).read(_axes(1, 3), 0.05)
    np.testing.assert_allclose(alone.prior_BT[0], [0, 1], atol=1e-6)
    np.testing.assert_allclose(alone.covered_B, [1, 0], atol=1e-6)


def test_a_label_new_to_the_model_shares_the_term_above_it_that_its_cells_are_read_as():
    background = _background([CD4, "CL:0000897"], read=_axes(0, 0))  # and CD4 memory T cells
    assert background.known_T.tolist() == [True, False]
    np.testing.assert_allclose(background.read(_axes(0), 0.05).prior_BT, [[0.5, 0.5]], atol=1e-6)


def test_a_label_counts_by_the_share_of_its_cells_and_not_by_their_number():
    few = _background(["", NEURON], read=_axes(1, 1))
    more = dataclasses.replace(few, read_TU=few.read_TU * np.float32([[10], [90]]))
    np.testing.assert_allclose(more.read(_axes(1), 0.05).prior_BT, [[0.5, 0.5]], atol=1e-6)


def test_a_label_that_the_atlas_uses_otherwise_keeps_its_cells():
    """Its "B cells" are read as CD8 T cells; a cell that is read so may be either.

    Unless they are so few that they may be labelled wrongly.
    """
    background = _background([CD8, B_CELL], read=_axes(1, 1))
    np.testing.assert_allclose(background.read(_axes(1), 0.05).prior_BT, [[1, 0]], atol=1e-6)
    many = dataclasses.replace(background, read_TU=LEAST_CELLS * background.read_TU * 1.001)
    np.testing.assert_allclose(many.read(_axes(1), 0.05).prior_BT, [[0.5, 0.5]], atol=1e-6)


def test_a_cell_that_is_likelier_of_the_reference_never_lies_outside():
    """However sure an answer must be; and where less is asked for, fewer cells do."""
    reading = _background([T_CELL, B_CELL]).read(_axes(0, 3), 0.05)
    reading = reading._replace(covered_B=np.array([0.6, 0.4]))
    assert lies_outside(reading, 0.9).tolist() == [False, True]
    assert lies_outside(reading, 0.3).tolist() == [False, False]


def test_it_is_silent_on_a_label_of_which_nothing_is_known():
    background = _background([CD4, NEURON])
    prior_BT = background.read(_axes(0, 3), 0.05).prior_BT
    assert np.isnan(prior_BT[:, 1]).all()
    np.testing.assert_allclose(prior_BT[:, 0], 1)


def test_rows_sum_to_one_also_where_nothing_is_covered():
    background = _background([T_CELL, B_CELL, ""], terms=(CD4, HEPATOCYTE, B_CELL, NEURON))
    far = np.zeros((1, 4), np.float32)
    far[0, 1] = 1
    reading = background.read(far, 1e-3)  # so sharp that nothing is left for the others
    assert reading.covered_B[0] == 0
    np.testing.assert_allclose(reading.prior_BT, [[0.5, 0.5, np.nan]])


def test_terms_without_a_text_are_left_out_and_none_at_all_is_no_background():
    text_UD = np.eye(3, dtype=np.float32)
    text_UD[1] = 0
    nothing = {"type_ND": np.zeros((0, 3), np.float32), "code_N": np.zeros(0, int)}
    made = Background.make([CD4, CD8, ""], text_UD, label_ids=[T_CELL], temperature=0.1, **nothing)
    assert made.ids == (CD4,)
    assert Background.make([""], text_UD[:1], label_ids=[""], temperature=0.1, **nothing) is None


# ---- real cells: a reference that lacks a type which the model knows ----


def _without_b_cells(all_blood):
    """Half of the blood cells without B cells, and the other half with them."""
    half = np.random.default_rng(0).random(all_blood.n_obs) < 0.5
    is_b = (all_blood.obs["cell_type"] == B_CELL).to_numpy()
    return all_blood[half & ~is_b].copy(), all_blood[~half].copy()


def _silent(index):
    """Return the index as before 0.11.0."""
    calibration = dataclasses.replace(index.calibration, weight_background=0.0)
    return dataclasses.replace(index, background=None, calibration=calibration)


@pytest.fixture(scope="module")
def lacking(all_blood):
    """An index of blood cells that lacks monocytes, and cells to ask it about."""
    atlas, query = _without_b_cells(all_blood)
    kept = ~atlas.obs["cell_type"].isin(["CL:0000623"]).to_numpy()  # nor natural killer cells
    index = scgp.build_index(atlas[kept].copy(), label_key="cell_type", progress=False)
    return index, query


def _called(index, query, **options):
    scgp.annotate(query, index=index, progress=False, **options)
    return query.obs["scgp_cell_type_ontology_term_id"].astype(str).to_numpy()


def test_cells_of_a_type_that_the_reference_lacks_get_fewer_of_its_labels(lacking):
    index, query = lacking
    true = query.obs["cell_type"].to_numpy(str)
    ontology = Ontology("CL")
    lineages = [B_CELL, "CL:0000623"]
    foreign = np.isin(true, lineages)

    def wrong(called):
        above = {t: ontology.ancestors(t) for t in lineages}
        return np.mean(
            [bool(c) and c not in above[t] for t, c in zip(true, called, strict=True) if t in above]
        )

    before = wrong(_called(_silent(index), query))
    after = wrong(_called(index, query))
    assert foreign.sum() > 50
    assert after < before - 0.05, (before, after)
    shown = query.obs["scgp_status"][foreign]
    assert set(shown) <= {"labelled", "ancestor", "unknown"}


def test_the_reference_keeps_its_own_labels(lacking):
    """Of its own study, where its labels are right by definition, it loses next to nothing."""
    index, query = lacking
    true = query.obs["cell_type"].to_numpy(str)
    own = np.isin(true, index.label_ids)
    right = {
        name: (_called(i, query) == true)[own].mean()
        for name, i in {"on": index, "off": _silent(index)}.items()
    }
    assert right["on"] > right["off"] - 0.03, right


def test_a_label_is_no_surer_than_that_the_cell_is_of_the_reference(lacking):
    index, query = lacking
    vectors = scgp.annotate(query, index=index, progress=False, copy=True)
    labelled = (vectors.obs["scgp_status"] == "labelled").to_numpy()
    type_NE = _type_vectors(query)
    covered_N = index.background.read(type_NE, index.calibration.temperature_text).covered_B
    confidence_N = vectors.obs["scgp_confidence"].to_numpy()
    assert (confidence_N[labelled] <= covered_N[labelled] + 1e-5).all()
    assert (covered_N[labelled] >= 0.5 - 1e-5).all()


def _type_vectors(adata):
    from scgp.embed import embed_adata

    vectors, _ = embed_adata(
        adata, Model.default(), layer=None, use_raw=None, batch_size=1024, device=None,
        progress=False,
    )  # fmt: skip
    return vectors.type_BE


def test_among_labels_that_are_asked_for_the_outside_stays_outside(lacking):
    """Of the lineages that the reference lacks, fewer cells get one of its labels."""
    index, query = lacking
    foreign = query.obs["cell_type"].isin([B_CELL, "CL:0000623"]).to_numpy()
    asked = ["dendritic cell", "CD14-positive monocyte", "T cell"]
    called = {}
    for name, i in {"on": index, "off": _silent(index)}.items():
        scgp.annotate(query, index=i, labels=asked, progress=False)
        called[name] = (query.obs["scgp_status"] == "labelled").to_numpy()[foreign].mean()
    assert called["on"] < called["off"] - 0.1, called


def test_a_higher_bound_gives_no_cell_an_answer_that_a_lower_one_does_not(lacking):
    index, query = lacking
    answered = []
    for bound in (0.5, 0.7, 0.9, 1.0):
        scgp.annotate(query, index=index, min_confidence=bound, progress=False)
        answered.append((query.obs["scgp_status"] != "unknown").to_numpy())
    assert all((low | ~high).all() for low, high in itertools.pairwise(answered))


def test_asked_for_its_best_label_every_cell_gets_one(lacking):
    index, query = lacking
    scgp.annotate(query, index=index, min_confidence=0, progress=False)
    assert set(query.obs["scgp_status"]) == {"labelled"}


def test_names_that_are_no_terms_are_learnt_from_the_cells(all_blood):
    """With its labels renamed an atlas answers as well as before."""
    half = np.random.default_rng(0).random(all_blood.n_obs) < 0.5
    atlas, query = all_blood[half].copy(), all_blood[~half].copy()
    types = sorted(set(all_blood.obs["cell_type"]))
    name_of = {term: f"cluster {i}" for i, term in enumerate(types)}
    atlas.obs["cluster"] = atlas.obs["cell_type"].astype(str).map(name_of)
    with pytest.warns(scgp.ScgpWarning, match="no Cell Ontology term"):
        index = scgp.build_index(atlas, label_key="cluster", progress=False)
    assert not index.background.known_T.any()
    true = query.obs["cell_type"].astype(str).map(name_of).to_numpy()
    right = {}
    for name, i in {"on": index, "off": _silent(index)}.items():
        scgp.annotate(query, index=i, progress=False)
        right[name] = (query.obs["scgp_cell_type"].astype(str).to_numpy() == true).mean()
    assert right["on"] > right["off"] - 0.03, right


def test_it_can_be_left_out(all_blood):
    atlas = all_blood[:120].copy()
    index = scgp.build_index(atlas, label_key="cell_type", background=False, progress=False)
    assert index.background is None
    assert index.calibration.weight_background == 0


def test_units_that_are_left_out_have_none(all_blood):
    """It is of all cells of the model, and would be in all of the indexes."""
    cells = all_blood[:200].copy()
    cells.obs["half"] = ["even" if i % 2 == 0 else "odd" for i in range(cells.n_obs)]
    indexes = scgp.leave_one_out(cells, label_key="cell_type", unit_key="half", progress=False)
    assert [index.background for index in indexes.values()] == [None, None]


def test_the_models_own_reference_has_none():
    assert model_index(Model.default()).background is None
    assert model_index(Model.default()).calibration.weight_background == 0


def test_the_stream_has_its_weight_and_is_explained(lacking):
    index, query = lacking
    assert index.calibration.weight_background == WEIGHT
    found = scgp.explain(query, [0], index=index)
    rows = found.streams[found.streams["stream"] == "background"]
    assert len(rows)
    assert rows["weight"].iloc[0] == pytest.approx(0.5)


def test_a_removed_gene_leaves_the_confidence_as_annotate_would_have_it(lacking):
    """Of every answer, the broader terms of cells outside the reference among them."""
    index, query = lacking
    scgp.annotate(query, index=index, progress=False)
    status = query.obs["scgp_status"].to_numpy(str)
    rows = [*np.flatnonzero(status == "ancestor")[:3], *np.flatnonzero(status == "labelled")[:3]]
    found = scgp.explain(query, rows, index=index, n_genes=3)
    for cell, genes in found.genes.groupby("cell"):
        row = genes.iloc[0]
        altered = query[[cell]].copy()
        column = query.var_names.get_loc(row["gene"])
        counts = altered.X.toarray()
        counts[0, column] = 0
        altered.X = counts
        scgp.annotate(altered, index=index, progress=False)
        before, after = query.obs.loc[cell], altered.obs.loc[cell]
        if after["scgp_cell_type"] == before["scgp_cell_type"]:
            assert row["confidence_without"] == pytest.approx(after["scgp_confidence"], abs=1e-5)


# ---- kept, grown, thinned ----


def test_it_survives_saving_to_the_bit(lacking, tmp_path):
    index, query = lacking
    index.save(tmp_path / "index")
    read = scgp.ReferenceIndex.load(tmp_path / "index")
    assert read.background.ids == index.background.ids
    assert read.background.label_ids == index.background.label_ids
    np.testing.assert_array_equal(read.background.text_UD, index.background.text_UD)
    np.testing.assert_array_equal(read.background.read_TU, index.background.read_TU)
    np.testing.assert_array_equal(_called(read, query), _called(index, query))


def test_an_index_without_some_labels_has_their_background_no_more(lacking):
    index, _ = lacking
    gone = index.code_N == 0
    thinner = index.remove(np.flatnonzero(gone))
    assert thinner.background.label_ids == tuple(thinner.label_ids)
    np.testing.assert_array_equal(thinner.background.read_TU, index.background.read_TU[1:])


def test_with_half_of_its_cells_a_label_is_read_half_as_often(lacking):
    index, _ = lacking
    rows = np.flatnonzero(index.code_N == 1)
    thinner = index.remove(rows[: len(rows) // 2])
    left = np.ones(len(index.labels))
    left[1] -= len(rows) // 2 / len(rows)
    expected = index.background.read_TU * left[:, None]
    np.testing.assert_allclose(thinner.background.read_TU, expected, rtol=1e-6)


def test_a_label_whose_cells_were_not_read_keeps_its_term():
    """As one that `add` brings: the model knows it, and its cells are read by nobody."""
    read = np.stack([_axes(3)[0], _axes(1)[0]])
    two = _background([HEPATOCYTE, ""], read=read)  # the second is read as CD8 T cells
    three = dataclasses.replace(
        two,
        label_ids=(HEPATOCYTE, "", T_CELL),
        read_TU=np.vstack([two.read_TU, 0 * two.read_TU[:1]]),
    )
    prior_BT = three.read(_axes(1), 0.05).prior_BT
    np.testing.assert_allclose(prior_BT, [[0, 0.5, 0.5]], atol=1e-6)


def test_merging_adds_what_cells_are_read_as(lacking):
    index, _ = lacking
    both = scgp.ReferenceIndex.merge([index, index])
    np.testing.assert_array_equal(both.background.read_TU, 2 * index.background.read_TU)
    few = index.remove(np.flatnonzero(index.code_N != 1))
    more = scgp.ReferenceIndex.merge([index, few])
    times = np.where(np.arange(len(index.labels)) == 1, 2, 1)[:, None]
    np.testing.assert_array_equal(more.background.read_TU, times * index.background.read_TU)


def test_a_new_label_that_nothing_is_known_of_ends_it(lacking):
    index, _ = lacking
    vector = index.vectors_ND[:1]
    known = index.add(vector, ["plasma cell"], label_ids=["CL:0000786"])
    assert known.background.known_T[known.labels.index("plasma cell")]
    assert index.add(vector, ["my cells"]).background is None


def test_altered_parts_are_refused(lacking):
    background = lacking[0].background
    ids = background.label_ids
    width = background.text_UD.shape[1]
    assert background.fault(ids, width) == ""
    assert "labels" in background.fault(ids[1:], width)
    assert "shapes" in background.fault(ids, width + 1)
    odd = dataclasses.replace(background, ids=("CL:9999999", *background.ids[1:]))
    assert "no live term" in odd.fault(ids, width)
    worse = dataclasses.replace(background, text_UD=background.text_UD * np.nan)
    assert "NaN" in worse.fault(ids, width)
    short = dataclasses.replace(background, read_TU=background.read_TU[:, 1:])
    assert "shapes" in short.fault(ids, width)
    negative = dataclasses.replace(background, read_TU=background.read_TU - 1000)
    assert "negative" in negative.fault(ids, width)


def test_all_streams_take_part_in_the_fused_posterior(lacking):
    """Taken out, the posterior is another one: the stream is heard."""
    index, query = lacking
    adata = scgp.annotate(query, index=index, progress=False, copy=True)
    cell_BE, type_BE = adata.obsm["X_scgp"], _type_vectors(query)
    on, _ = streams_of(index, cell_BE, type_BE, None, index.calibration)
    off, _ = streams_of(_silent(index), cell_BE, type_BE, None, index.calibration)
    assert set(on) - set(off) == {"background"}
    assert not np.allclose(fuse(on, index.calibration), fuse(off, index.calibration), atol=1e-3)
