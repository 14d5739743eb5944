"""Mean profiles by description: the closed form, what is not measured, and what an index keeps."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

import scgp
from scgp.errors import ArgumentError, CheckpointError
from scgp.model.directory import load_npz, save_npz
from scgp.reference.groups import Groups
from scgp.reference.profiles import (
    MISSED,
    OWN,
    RIDGE,
    SHARED,
    Profiles,
    fit_profiles,
    joint,
)


def alike(n, seed=0):
    """Return a likeness of n labels: positive definite, 1 with itself."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return 0.8 * x @ x.T + 0.2 * np.eye(n)


def some_groups(n=6, n_genes=9, sources=None, seed=0):
    rng = np.random.default_rng(seed)
    value = rng.gamma(2.0, 1.0, (n, n_genes)).astype(np.float32)
    keys = [(f"L{p}", "", source) for p, source in enumerate(sources or ["a"] * n)]
    return value, np.ones((n, n_genes), bool), keys


# ---- groups ----


def test_a_group_is_the_mean_of_the_rows_that_measure_a_gene():
    value = np.array([[2.0, 7.0], [4.0, 1.0], [5.0, 5.0]], np.float32)
    measured = np.array([[True, False], [True, True], [True, False]])
    groups = Groups.of(value, measured, [("B", "", "a"), ("B", "", "a"), ("A", "", "a")])
    assert groups.label_ids == ["A", "B"]
    assert groups.n_rows_P.tolist() == [1, 2]
    np.testing.assert_allclose(groups.mean_PG, [[5, 0], [3, 1]])
    assert groups.measured_PG.tolist() == [[True, False], [True, True]]
    mean_G, measured_G = groups.source_mean("a")
    np.testing.assert_allclose(mean_G, [11 / 3, 1])  # every row of gene 0 counts the same
    assert measured_G.all()


def test_groups_without_rows_or_of_other_sizes_are_refused():
    with pytest.raises(ArgumentError, match="0 labels for 0 mean profiles"):
        Groups.of(np.zeros((0, 2), np.float32), np.zeros((0, 2), bool), [])
    with pytest.raises(ArgumentError, match="1 labels for 2 mean profiles"):
        Groups.of(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool), [("A", "", "a")])


def test_the_widest_sources_come_first_and_a_panel_is_none():
    value, measured, keys = some_groups(6, 10, ["panel", "panel", "panel", "a", "b", "b"])
    measured[:3, 4:] = False
    assert Groups.of(value, measured, keys).widest() == ["b", "a"]


# ---- the regression ----


def test_predictions_are_kernel_ridge_regression():
    value, measured, keys = some_groups()
    groups, like, tissue = Groups.of(value, measured, keys), alike(8), 0.5 * alike(8, seed=1)
    found = fit_profiles(groups, like[:6, :6], tissue[:6, :6])
    same = np.eye(8) * (np.arange(8) < 6)  # each group is of a term of its own
    kernel = (like + OWN * same) * (1 + tissue) + 0.25 * tissue
    inverse = np.linalg.inv(kernel[:6, :6] + RIDGE * np.eye(6))
    wanted = kernel[6:, :6] @ inverse @ (value - value.mean(axis=0))
    said = found.deviation(like[6:, :6], tissue[6:, :6])
    np.testing.assert_allclose(said, wanted, atol=0.02 * np.abs(wanted).max())
    np.testing.assert_allclose(found.mean_G, value.mean(axis=0), rtol=1e-6)


def test_what_sets_two_terms_of_one_description_apart_is_told_by_their_own_profiles():
    value, measured, keys = some_groups(6, 10)  # synthetic
    like = alike(6)
    like[1] = like[0]
    like[:, 1] = like[:, 0]
    zeros, terms = np.zeros((6, 6)), [key[0] for key in keys]
    groups = Groups.of(value, measured, keys)
    apart = value[0] - value[1]
    found = {own: fit_profiles(groups, like, zeros, own=own) for own in (0.0, OWN, 8.0)}
    said = {own: f.deviation(like, zeros, term_ids=terms) for own, f in found.items()}
    assert np.abs(said[0.0][0] - said[0.0][1]).max() < 0.05  # their descriptions are the same
    share = [np.dot(x[0] - x[1], apart) / np.dot(apart, apart) for x in said.values()]
    np.testing.assert_allclose(share, [0, OWN / (OWN + RIDGE), 8 / (8 + RIDGE)], atol=0.03)
    text = found[OWN].deviation(like, zeros, term_ids=[""] * 6)
    np.testing.assert_array_equal(text, found[OWN].deviation(like, zeros))  # free text is no term
    arrays = found[OWN].arrays()
    assert Profiles.from_arrays(arrays).own == OWN
    for name in ("own", "rest_value", "rest_gene", "rest_start"):
        del arrays[name]
    old = Profiles.from_arrays(arrays)  # made before 0.12.0
    assert (old.own, old.rest_PG.nnz) == (0.0, 0)


def test_genes_that_are_in_no_component_are_kept_for_known_types():
    value, measured, keys = some_groups(8, 30)  # synthetic
    value[3, 7] = 9.0  # a hormone of one type
    keys = [(label, "UBERON:0000955", source) for label, _, source in keys]
    like, tissue, terms = alike(8), np.ones((8, 8)), [key[0] for key in keys]
    groups = Groups.of(value, measured, keys)
    whole, few = (fit_profiles(groups, like, tissue, n_components=n) for n in (30, 2))
    wanted = whole.mean_G + whole.deviation(like, tissue, term_ids=terms)
    said = few.mean_G + few.deviation(like, tissue, term_ids=terms)
    missed = np.abs(np.maximum(said, 0) - np.maximum(wanted, 0))
    assert missed.max() < MISSED + 0.1
    text = few.mean_G + few.deviation(like, tissue, term_ids=[""] * 8)  # free text: no known type
    assert np.abs(text - wanted)[3, 7] > 1
    again = Profiles.from_arrays(few.arrays()).deviation(like, tissue, term_ids=terms)
    np.testing.assert_array_equal(again, few.deviation(like, tissue, term_ids=terms))
    one = few.deviation(like, tissue, np.array([7]), term_ids=terms)
    np.testing.assert_array_equal(one[:, 0], few.deviation(like, tissue, term_ids=terms)[:, 7])


def test_it_is_the_tissue_asked_for_whose_genes_are_kept():
    value, measured, keys = some_groups(4, 30)  # synthetic
    keys = [("L0", "A", "a"), ("L0", "B", "a"), ("L1", "A", "a"), ("L2", "B", "a")]
    value[0, 3] = value[1, 4] = 9.0
    like = np.array([[1.0 if a[0] == b[0] else 0.1 for b in keys] for a in keys])
    tissue = np.array([[float(a[1] == b[1]) for b in keys] for a in keys])
    groups = Groups.of(value, measured, keys)
    few = fit_profiles(groups, like, tissue, n_components=1)
    kept = few._missed(["L0", "L0", "L9"], tissue[:3], np.arange(30))
    assert kept[0, 3] > 0.5 > kept[0, 4]
    assert kept[1, 4] > 0.5 > kept[1, 3]
    assert not kept[2].any()


def test_equal_rows_of_a_group_are_the_same_as_groups_with_equal_descriptions():
    value, measured, keys = some_groups()
    value[1], keys[1] = value[0], keys[0]
    described = {"own": 0.0}  # or the groups of one term have more in common than others
    like, tissue = alike(6)[1:, 1:], np.zeros((5, 5))
    twice = fit_profiles(Groups.of(value, measured, keys), like, tissue, **described)
    apart = [*keys[:1], ("L0 too", "", "a"), *keys[2:]]
    groups = Groups.of(value, measured, apart)
    place = [max(int(label[1]), 1) - 1 for label in groups.label_ids]
    like = alike(6)[1:, 1:][np.ix_(place, place)]
    once = fit_profiles(groups, like, np.zeros((6, 6)), **described)
    asked = alike(6, seed=3)[:2, 1:]
    zeros = np.zeros((2, 6))
    first, second = twice.deviation(asked, zeros[:, :5]), once.deviation(asked[:, place], zeros)
    np.testing.assert_allclose(first, second, atol=0.02 * np.abs(second).max())


def test_a_gene_that_a_source_does_not_measure_is_no_zero():
    value, measured, keys = some_groups(8, 12, ["a"] * 5 + ["b"] * 3)
    measured[5:, 8:] = False
    other = value.copy()
    other[5:, 8:] = 99.0
    like, tissue, asked = alike(8), np.zeros((8, 8)), alike(10)[8:, :8]
    said = [
        fit_profiles(Groups.of(v, measured, keys), like, tissue).deviation(asked, tissue[:2])
        for v in (value, other)
    ]
    np.testing.assert_array_equal(*said)  # what stands where nothing was measured is not read
    alone = fit_profiles(Groups.of(value[:5], measured[:5], keys[:5]), like[:5, :5], tissue[:5, :5])
    wanted = alone.deviation(asked[:, :5], tissue[:2, :5])[:, 8:]
    np.testing.assert_allclose(said[0][:, 8:], wanted, atol=0.03 * np.abs(wanted).max())


def test_the_level_of_another_source_changes_nothing():
    value, measured, keys = some_groups(8, 12, ["a"] * 5 + ["b"] * 3)
    lifted = value.copy()
    lifted[5:] += 3.0
    like, tissue = alike(8), np.zeros((8, 8))
    first, second = (fit_profiles(Groups.of(v, measured, keys), like, tissue)
                     for v in (value, lifted))  # fmt: skip
    np.testing.assert_array_equal(first.mean_G, second.mean_G)
    asked = alike(10)[8:, :8]
    said = first.deviation(asked, tissue[:2]), second.deviation(asked, tissue[:2])
    np.testing.assert_allclose(*said, atol=0.02 * np.abs(said[0]).max())


def test_another_source_counts_by_half():
    value, measured, keys = some_groups(4, 6, ["a", "a", "b", "b"])
    found = fit_profiles(Groups.of(value, measured, keys), np.eye(4), np.zeros((4, 4)), own=0.0)
    said = found.deviation(np.eye(4), np.zeros((4, 4)))
    own = np.concatenate([value[:2] - value[:2].mean(0), value[2:] - value[2:].mean(0)])
    wanted = own / (1 + RIDGE) * np.array([1, 1, SHARED, SHARED])[:, None]
    np.testing.assert_allclose(said, wanted, atol=0.02 * np.abs(wanted).max())


def test_the_mean_of_a_gene_comes_from_the_target_and_never_from_a_panel():
    value, measured, keys = some_groups(6, 10, ["a", "a", "a", "b", "b", "panel"])
    measured[:3, 0] = False
    measured[:5, 1] = False
    measured[5, 3:] = False
    groups = Groups.of(value, measured, keys)
    found = fit_profiles(groups, alike(6), np.zeros((6, 6)))
    assert found.mean_G[0] == pytest.approx(value[3:5, 0].mean())  # the other wide source
    assert found.n_groups_G[:3].tolist() == [2, 0, 5]
    assert found.mean_G[2] == pytest.approx(value[:3, 2].mean())


def test_one_group_says_its_own_profile():
    value, measured, keys = some_groups(1)
    found = fit_profiles(Groups.of(value, measured, keys), np.eye(1), np.zeros((1, 1)))
    np.testing.assert_allclose(found.mean_G, value[0])
    assert not found.deviation(np.ones((2, 1)), np.zeros((2, 1))).any()


def test_the_order_of_rows_changes_nothing():
    value, measured, keys = some_groups()
    order = np.random.default_rng(1).permutation(6)
    fitted = [
        fit_profiles(
            Groups.of(value[rows], measured[rows], [keys[r] for r in rows]),
            alike(6),
            np.zeros((6, 6)),
        ).arrays()
        for rows in (np.arange(6), order)
    ]
    for name, array in fitted[0].items():
        np.testing.assert_array_equal(array, fitted[1][name])


def test_a_gene_does_not_depend_on_which_others_are_asked_for():
    value, measured, keys = some_groups(6, 300)
    found = fit_profiles(Groups.of(value, measured, keys), alike(6), np.zeros((6, 6)))
    asked, tissue = alike(9)[6:, :6], np.zeros((3, 6))
    whole = found.deviation(asked, tissue)
    np.testing.assert_array_equal(
        whole[:, [7, 3]], found.deviation(asked, tissue, np.array([7, 3]))
    )


def test_tissues_that_are_alike_say_little_where_labels_are_not():
    assert joint(np.zeros((1, 1)), np.ones((1, 1)))[0, 0] == 0.25
    assert joint(np.ones((1, 1)), np.ones((1, 1)))[0, 0] == 2.25


# ---- what is kept ----


@pytest.fixture
def profiles():
    value, measured, keys = some_groups()
    return fit_profiles(Groups.of(value, measured, keys), alike(6), np.zeros((6, 6)))


def test_what_is_stored_comes_back(profiles, tmp_path):
    save_npz(tmp_path / "p.npz", profiles.arrays())
    again = Profiles.from_arrays(load_npz(tmp_path / "p.npz"))
    for field in dataclasses.fields(Profiles):
        first, second = getattr(profiles, field.name), getattr(again, field.name)
        assert type(first) is type(second)
        dense = [x.toarray() if sp.issparse(x) else x for x in (first, second)]
        np.testing.assert_array_equal(*dense)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean_G", None, "lack mean_G"),
        ("own", None, "lack own"),
        ("rest_gene", np.full(3, 99, np.int32), "a remainder that does not fit"),
        ("rest_start", np.zeros(2, np.int32), "a remainder that does not fit"),
        ("gene_GK", np.zeros((9, 5), np.int16), "lack gene_GK, or have them in another type"),
        ("gene_GK", np.zeros((8, 5), np.int8), r"gene_GK of the shape \(8, 5\)"),
        ("tissue_ids", np.array(["a"]), r"tissue_ids of the shape \(1,\), expected \(6,\)"),
        ("mean_G", np.full(9, np.nan, np.float32), "not finite"),
        ("tissue_alone", np.array([1.0]), "tissue_alone of the shape"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(profiles, name, value, message):
    arrays = profiles.arrays() | {name: value}
    with pytest.raises(CheckpointError, match=message):
        Profiles.from_arrays({k: v for k, v in arrays.items() if v is not None})


def test_an_index_keeps_its_profiles_and_older_ones_lack_them(blood_index, profiles, tmp_path):
    fresh = dataclasses.replace(blood_index, profiles=profiles)
    fresh.save(tmp_path / "new")
    found = scgp.ReferenceIndex.load(tmp_path / "new").profiles
    np.testing.assert_array_equal(found.weight_PK, profiles.weight_PK)
    dataclasses.replace(blood_index, profiles=None).save(tmp_path / "old")
    assert not (tmp_path / "old" / "profiles.npz").exists()
    assert scgp.ReferenceIndex.load(tmp_path / "old").profiles is None


def test_damaged_profiles_are_refused(blood_index, tmp_path):
    blood_index.save(tmp_path / "index")
    file = tmp_path / "index" / "profiles.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"profiles\.npz was altered"):
        scgp.ReferenceIndex.load(tmp_path / "index")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"profiles\.npz is missing"):
        scgp.ReferenceIndex.load(tmp_path / "index")
