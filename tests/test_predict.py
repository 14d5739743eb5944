"""predict_expression(): what descriptions imply, from an index of real blood cells."""

import dataclasses
import socket

import anndata as ad
import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError, FingerprintError, GeneError, MissingColumnError, ScgpWarning
from scgp.predict import predict_expression

B_CELL, NK, MONOCYTE, T_CELL = "CL:0000236", "CL:0000623", "CL:0000576", "CL:0000084"
MARKERS = {B_CELL: "CD79A", NK: "GNLY", "CL:0001054": "LST1"}
FREE_B = "B cells of the blood"  # no name of a term, nor near one


@pytest.fixture(scope="module")
def two_tissues(all_blood, model):
    """The same cells said to be of two tissues, with CD79A doubled in one."""
    atlas = all_blood[120:].copy()
    other = atlas.copy()
    counts = other.X.tolil()
    gene = other.var_names.get_loc("CD79A")
    counts[:, gene] = counts[:, gene] * 4
    other.X = counts.tocsr()
    atlas.obs["tissue"], other.obs["tissue"] = "blood", "spleen"
    both = ad.concat([atlas, other], index_unique="-")
    return scgp.build_index(
        both, label_key="cell_type", tissue_key="tissue", model=model, progress=False
    )


@pytest.fixture
def predict(blood_index):
    def verb(texts, **options):
        return predict_expression(texts, **{"index": blood_index, **options})

    return verb


# ---- what is returned ----


def test_the_documented_slots(predict, model, tmp_path):
    said = predict(["NK cell", MONOCYTE], tissue="liver", genes=["GNLY", "ENSG00000105369"])
    assert said.shape == (2, 2)
    assert said.X.dtype == np.float32
    assert said.layers["deviation"].dtype == np.float32
    assert said.obs_names.tolist() == ["NK cell (liver)", "CL:0000576 (liver)"]
    assert said.obs["text"].tolist() == ["NK cell", MONOCYTE]
    assert said.obs["ontology_term_id"].tolist() == [NK, MONOCYTE]
    assert said.obs["tissue"].tolist() == ["liver"] * 2
    assert said.obs["tissue_ontology_term_id"].tolist() == ["UBERON:0002107"] * 2
    assert said.obs["nearest_label"].iloc[0] == "natural killer cell"
    assert said.obs["nearest_likeness"].iloc[0] == pytest.approx(1)
    assert 0 < said.obs["nearest_likeness"].iloc[1] < 1  # monocytes are known by a subtype alone
    assert said.obs["nearest_ontology_term_id"].iloc[1] == "CL:0001054"
    assert said.var_names.tolist() == ["GNLY", "ENSG00000105369"]
    assert said.var["symbol"].tolist() == ["GNLY", "CD79A"]
    assert (said.var["n_groups"] > 0).all()
    np.testing.assert_allclose(said.layers["deviation"], said.X - said.var["mean"].to_numpy())
    assert said.uns["scgp_expression"]["model"] == model.fingerprint
    said.write_h5ad(tmp_path / "said.h5ad")
    again = ad.read_h5ad(tmp_path / "said.h5ad")
    np.testing.assert_array_equal(again.X, said.X)


def test_all_genes_that_are_known_and_none_below_zero(predict, all_blood, model):
    said = predict("B cell")
    assert said.n_vars == model.genes.match(all_blood.var_names).n_genes
    assert said.var_names.is_unique
    assert (said.X >= 0).all()
    assert (said.layers["deviation"] < 0).any()


def test_known_types_express_what_their_cells_do(predict, all_blood):
    said = predict(list(MARKERS), genes=list(MARKERS.values())).X
    assert (said.argmax(axis=0) == np.arange(3)).all()
    whole = predict(list(MARKERS))
    cells = all_blood[120:, [gene for gene in all_blood.var_names if gene in whole.var_names]]
    depth = np.asarray(cells.X.sum(axis=1))
    truth = [
        np.log1p(np.asarray((cells.X.multiply(1e4 / depth)).tocsr()[rows].mean(axis=0)).ravel())
        for rows in ((cells.obs["cell_type"] == term).to_numpy() for term in MARKERS)
    ]
    for true, predicted in zip(truth, whole[:, cells.var_names].X, strict=True):
        assert np.corrcoef(true, predicted)[0, 1] > 0.9


def test_a_type_that_the_index_lacks_is_like_its_relatives(predict, blood_index):
    mature_nk = "CL:0000824"
    assert mature_nk not in blood_index.label_ids
    said = predict([mature_nk, B_CELL], genes=["GNLY", "CD79A"])
    assert said.X[0, 0] > said.X[1, 0]
    assert said.X[0, 1] < said.X[1, 1]
    assert said.obs["nearest_ontology_term_id"].iloc[0] == NK


def test_names_ids_and_synonyms_are_one(predict):
    with pytest.warns(ScgpWarning, match="no names of the ontology|read as"):
        said = predict(["natural killer cell", NK, "NK cell", "NKs"], genes="GNLY")
    assert len(set(said.X.ravel().tolist())) == 1


def test_a_text_does_not_depend_on_its_company_nor_a_gene_on_others(predict):
    together = predict(["B cell", "NK cell", "T cell"])
    alone = predict(["NK cell"], genes=["GNLY"])
    np.testing.assert_allclose(together[1, "GNLY"].X, alone.X, rtol=1e-6)
    twice = predict(["B cell", "B cell"], genes=["CD79A"])
    assert twice.X[0, 0] == twice.X[1, 0]
    assert twice.obs_names.tolist() == ["B cell", "B cell #2"]


def test_tissues_are_told_apart(two_tissues):
    said = predict_expression(
        ["B cell"] * 2, tissue=["blood", "spleen"], genes=["CD79A"], index=two_tissues
    )
    assert said.X[1, 0] > said.X[0, 0] + 0.05
    assert said.obs["tissue"].tolist() == ["blood", "spleen"]
    none = predict_expression("B cell", genes=["CD79A"], index=two_tissues)
    assert said.X[0, 0] < none.X[0, 0] < said.X[1, 0]
    assert none.obs["tissue"].tolist() == [""]


def test_the_atlas_is_only_read(all_blood, model, state):
    atlas = all_blood[:100].copy()
    atlas.obs["tissue"] = "blood"
    before = state(atlas)
    scgp.build_index(atlas, label_key="cell_type", tissue_key="tissue", model=model, progress=False)
    assert state(atlas) == before


def test_a_saved_index_says_the_same(blood_index, predict, tmp_path):
    blood_index.save(tmp_path / "index")
    here, there = predict("B cell"), predict("B cell", index=tmp_path / "index")
    np.testing.assert_array_equal(here.X, there.X)


def test_nothing_is_asked_of_the_network(predict, monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert predict(["B cell"], tissue="lung").n_obs == 1


# ---- what stands behind it ----


def test_profiles_of_the_very_label_and_tissue_are_counted(two_tissues):
    groups = two_tissues.profiles
    texts = ["B cell", "B cell", "B cell", "CL:0000824"]
    tissue = ["blood", "spleen", "lung", "blood"]
    obs = predict_expression(texts, tissue=tissue, genes="CD79A", index=two_tissues).obs
    own = [groups.label_ids.count(term) for term in obs["ontology_term_id"]]
    assert own == [2, 2, 2, 0]  # a group of each tissue, and none of the mature NK cell
    assert obs["n_profiles"].tolist() == [1, 1, 0, 0]
    assert obs["n_profiles"].dtype == np.int32
    assert obs["nearest_tissue"].tolist()[:2] == ["blood", "spleen"]
    assert obs["nearest_tissue_ontology_term_id"].iloc[0] == "UBERON:0000178"
    assert obs["nearest_tissue"].iloc[2] in {"blood", "spleen"}
    assert obs["nearest_tissue_likeness"].dtype == np.float32
    np.testing.assert_allclose(obs["nearest_tissue_likeness"].iloc[[0, 1, 3]], 1, atol=1e-6)
    assert obs["nearest_tissue_likeness"].iloc[2] < 0.9


def test_without_a_tissue_all_profiles_of_the_label_count(two_tissues, predict):
    obs = predict_expression("B cell", genes="CD79A", index=two_tissues).obs
    assert obs["n_profiles"].tolist() == [2]
    assert obs["nearest_tissue"].tolist() == [""]
    assert obs["nearest_tissue_likeness"].isna().all()
    obs = predict("B cell", tissue="blood", genes="CD79A").obs  # an index that knows no tissue
    assert obs["n_profiles"].tolist() == [0]
    assert obs["nearest_tissue_ontology_term_id"].tolist() == [""]
    assert obs["nearest_tissue_likeness"].isna().all()


def test_free_text_has_no_profile_of_its_own(two_tissues, minilm):
    obs = predict_expression(
        FREE_B, tissue="blood", genes="CD79A", index=two_tissues, encoder=minilm
    ).obs
    assert obs["n_profiles"].tolist() == [0]
    assert obs["nearest_tissue"].tolist() == ["blood"]


# ---- within the tissue ----


def test_within_a_tissue_is_what_is_left_of_its_mean_prediction(two_tissues):
    """The formula, by the verb itself."""
    groups = two_tissues.profiles
    there = sorted({x for x, t in zip(groups.label_ids, groups.tissue_ids, strict=True)
                    if t == "UBERON:0002106"})  # fmt: skip
    assert len(there) >= 5
    genes = ["CD79A", "GNLY", "LST1"]
    said = predict_expression(there, tissue="spleen", genes=genes, index=two_tissues)
    assert said.layers["within_tissue"].dtype == np.float32
    np.testing.assert_allclose(said.layers["within_tissue"], said.X - said.X.mean(0), atol=1e-5)
    assert said.obs["n_labels_within"].tolist() == [len(there)] * len(there)
    one = predict_expression(there[1], tissue="spleen", genes=genes[::-1], index=two_tissues)
    np.testing.assert_allclose(
        one.layers["within_tissue"][0], said.layers["within_tissue"][1, ::-1], atol=1e-6
    )


def test_within_a_tissue_of_few_labels_all_are_asked(two_tissues):
    """Nothing is known of the lung, so the mean is over all labels there."""
    everywhere = sorted(set(two_tissues.profiles.label_ids))
    said = predict_expression(everywhere, tissue="lung", genes=["CD79A", "GNLY"], index=two_tissues)
    np.testing.assert_allclose(said.layers["within_tissue"], said.X - said.X.mean(0), atol=1e-5)
    assert said.obs["n_labels_within"].tolist() == [len(everywhere)] * len(everywhere)


@pytest.mark.parametrize(("n_labels", "n_within"), [(4, 9), (5, 5)])
def test_five_labels_are_enough_for_the_mean_of_a_tissue(all_blood, model, n_labels, n_within):
    atlas = all_blood[120:].copy()
    names = atlas.obs["cell_type"].value_counts().index  # the last is too rare for a profile
    other = atlas[atlas.obs["cell_type"].isin(names[:n_labels]).to_numpy()].copy()
    atlas.obs["tissue"], other.obs["tissue"] = "blood", "spleen"
    both = ad.concat([atlas, other], index_unique="-")
    index = scgp.build_index(
        both, label_key="cell_type", tissue_key="tissue", model=model, progress=False
    )
    said = predict_expression("B cell", tissue="spleen", genes="CD79A", index=index)
    assert said.obs["n_labels_within"].tolist() == [n_within]


def test_nothing_is_within_no_tissue(predict):
    said = predict(["B cell", "NK cell"], genes=["CD79A", "GNLY"])
    assert np.isnan(said.layers["within_tissue"]).all()
    assert said.obs["n_labels_within"].tolist() == [0, 0]


# ---- free text ----


def test_free_text_is_near_what_it_means(predict, minilm):
    with pytest.warns(ScgpWarning, match="like no known label"):  # the second, .18
        said = predict([FREE_B, "cytotoxic lymphocyte that kills tumour cells"], encoder=minilm,
                       genes=["CD79A", "GNLY"])  # fmt: skip
    assert said.obs["ontology_term_id"].tolist() == ["", ""]
    assert said.obs["nearest_ontology_term_id"].iloc[0] == B_CELL
    assert said.X[0, 0] > said.X[1, 0]
    assert said.X[1, 1] > said.X[0, 1]
    assert (said.obs["nearest_likeness"] <= 0.5).all()


def test_free_text_that_is_like_no_known_label_is_warned_about(minilm):
    odd = ["zorgon cell", "mouse hepatocyte"]
    texts = [odd[0], FREE_B, odd[1], "pericytes around capillaries", "hepatocyte"]
    with pytest.warns(ScgpWarning, match="like no known label") as caught:
        said = predict_expression(texts, genes="ALB", encoder=minilm)
    (warning,) = caught
    assert warning.filename == __file__
    message = str(warning.message)
    assert "'zorgon cell' (nearest 'cerebellar inhibitory GABAergic interneuron', 0.15)" in message
    assert "'mouse hepatocyte' (nearest 'hepatocyte', 0.20)" in message
    likeness = said.obs.set_index("text")["nearest_likeness"]
    assert (likeness[odd] < 0.25).all()
    assert (likeness.drop(odd) >= 0.25).all()
    for text in likeness.index.drop(odd):
        assert f"{text!r} (nearest" not in message


def test_no_more_than_five_such_texts_are_named(predict, minilm):
    with pytest.warns(ScgpWarning, match="'zorg 4'.*; and 2 more") as caught:
        predict([f"zorg {i}" for i in range(7)], genes="CD79A", encoder=minilm)
    assert "zorg 5" not in str(caught[0].message)


def test_free_text_without_the_extra_says_what_to_install(predict, no_extra):
    with pytest.raises(ArgumentError, match=r"B cells of the blood.*\.\[text\]"):
        predict(FREE_B)


# ---- bad input ----


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        (["B cell", " "], r"texts\[1\] is ' '"),
        ([3], r"texts\[0\] is 3"),
        ("CL:9999999", "reads as an ontology id"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(predict, texts, message):
    with pytest.raises(ArgumentError, match=message):
        predict(texts)


@pytest.mark.parametrize(
    ("tissue", "message"),
    [
        ("livr", "'livr' is no id or name of a live UBERON term"),
        ("CL:0000236", "no id or name of a live UBERON term"),
        (["lung", "liver", "spleen"], "3 names for 2 texts; pass one, or one each"),
        ([], "tissue is empty"),
        ("", r"tissue\[0\] is ''"),
    ],
)
def test_tissues_that_cannot_be_read_are_refused(predict, tissue, message):
    with pytest.raises(ArgumentError, match=message):
        predict(["B cell", "T cell"], tissue=tissue)


def test_a_misspelt_tissue_names_the_nearest_known(two_tissues):
    with pytest.raises(ArgumentError, match="Did you mean 'spleen'"):
        predict_expression("B cell", tissue="spleeen", index=two_tissues)


def test_an_unknown_gene_names_the_nearest_symbols(predict):
    with pytest.raises(GeneError, match=r"'VWFX' \(near: VWF"):
        predict("B cell", genes=["CD79A", "VWFX"])
    with pytest.raises(GeneError, match=r"'Cd79a' \(written like a mouse gene; near: CD79"):
        predict("B cell", genes="Cd79a")
    with pytest.raises(GeneError, match=r"'H2-Aa' \(a mouse gene"):
        predict("B cell", genes="H2-Aa")
    with pytest.raises(GeneError, match=r"'!!!!' \(no name is near\); .*and 2 more"):
        predict("B cell", genes=[c * 4 for c in "!?%&$@~"])


def test_genes_that_nothing_measures_or_named_twice_are_refused(predict, all_blood):
    assert "VWF" not in all_blood.var_names
    with pytest.raises(GeneError, match="no mean profile of the index measures VWF: nothing"):
        predict("B cell", genes=["CD79A", "VWF"])
    with pytest.raises(ArgumentError, match="'CD79A' more than once"):
        predict("B cell", genes=["CD79A", "CD79A"])
    with pytest.raises(GeneError, match="'CD20' and 'MS4A1' are one gene"):
        predict("B cell", genes=["CD79A", "CD20", "MS4A1"])
    with pytest.raises(ArgumentError, match="genes is empty"):
        predict("B cell", genes=[])
    with pytest.raises(ArgumentError, match="genes is 5; expected a name such as"):
        predict("B cell", genes=5)


def test_an_index_without_profiles_says_how_to_make_one(predict, blood_index):
    old = dataclasses.replace(blood_index, profiles=None)
    with pytest.raises(ArgumentError, match=r"no mean profiles.*tissue_key"):
        predict("B cell", index=old)


def test_an_index_of_another_model_or_of_a_representation_is_refused(predict, blood_index):
    for maker in ("f" * 64, "obsm:X_pca"):
        other = dataclasses.replace(blood_index, model_fingerprint=maker)
        with pytest.raises(FingerprintError):
            predict("B cell", index=other)


def test_a_model_without_a_reference_says_so(model):
    bare = scgp.Model(model.config, model.network, model.genes, model.phenotypes)
    with pytest.raises(ArgumentError, match="no reference of its own"):
        predict_expression("B cell", model=bare)


def test_labels_that_are_no_terms_make_no_profiles(all_blood, model):
    atlas = all_blood[:60].copy()
    atlas.obs["kind"] = "my cluster"
    with pytest.warns(ScgpWarning, match="no Cell Ontology term"):
        index = scgp.build_index(atlas, label_key="kind", model=model, progress=False)
    assert index.profiles is None


def test_a_tissue_column_that_is_missing_or_not_used_is_named(blood, model):
    with pytest.raises(MissingColumnError, match="no column 'organ'"):
        scgp.build_index(blood, label_key="cell_type", tissue_key="organ", model=model)
    blood.obsm["X_x"] = np.random.default_rng(0).normal(size=(blood.n_obs, 4))
    with pytest.raises(ArgumentError, match="tissue_key= cannot go with use_rep="):
        scgp.build_index(blood, label_key="cell_type", tissue_key="cell_type", use_rep="X_x")
