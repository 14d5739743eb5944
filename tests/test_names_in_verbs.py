"""Names as authors write them, in the verbs; and what is refused before a reference is embedded."""

import builtins
import sys

import numpy as np
import pytest

import scgp
from scgp.errors import ArgumentError, ScgpWarning
from scgp.phenotypes.text import TextEncoder

KILLER = "cytotoxic lymphocyte that kills tumour cells"
TOLD = r"'CD8\+ T cells' as CD8-positive, alpha-beta T cell \(CL:0000625\)"


def test_labels_as_authors_write_them(blood, blood_index, no_extra):
    """Read as terms, told once at the caller's line, and answered as the terms are."""
    options = {"index": blood_index, "progress": False, "copy": True}
    with pytest.warns(ScgpWarning, match=rf"{TOLD}; 'NK' as natural killer cell") as caught:
        found = scgp.annotate(blood, labels=["CD8+ T cells", "NK", "B cell"], **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    facts = found.uns["scgp"]
    terms = ["CL:0000625", "CL:0000623", "CL:0000236"]
    assert facts["labels_ontology_term_ids"] == terms
    assert facts["labels"][:2] == ["CD8-positive, alpha-beta T cell", "natural killer cell"]
    by_id = scgp.annotate(blood, labels=terms, **options)
    assert found.obs["scgp_cell_type"].tolist() == by_id.obs["scgp_cell_type"].tolist()


def test_a_label_of_the_reference_is_not_spoken_of_again(blood, all_blood):
    atlas = all_blood[120:400].copy()
    atlas.obs["own"] = np.where(atlas.obs["cell_type"] == "CL:0000236", "B cells", "the rest")
    with (
        pytest.warns(ScgpWarning, match="^no names of the ontology.*'B cells' as B cell"),
        pytest.warns(ScgpWarning, match="1 of 2 labels"),
    ):
        index = scgp.build_index(atlas, label_key="own", progress=False)
    found = scgp.annotate(  # no warning
        blood, labels=["B cells", "the rest"], index=index, progress=False, copy=True
    )
    assert found.uns["scgp"]["labels_ontology_term_ids"] == ["CL:0000236", ""]


def test_texts_as_authors_write_them(blood, no_extra):
    with pytest.warns(ScgpWarning, match=TOLD) as caught:
        scgp.score_text(blood, ["CD8+ T cells", "B cell"], progress=False)
    assert len(caught) == 1
    facts = blood.uns["scgp_text"]
    assert facts["texts"] == ["CD8+ T cells", "B cell"]
    assert facts["ontology_term_ids"] == ["CL:0000625", "CL:0000236"]


def test_free_text_near_a_name(blood, minilm):
    words = "^read as free text.*: 'pericyt', did you mean 'pericyte'"
    with pytest.warns(ScgpWarning, match=words) as caught:
        scgp.score_text(blood, ["pericyt", KILLER], encoder=minilm, progress=False)
    assert len(caught) == 1
    assert "cytotoxic" not in str(caught[0].message)


def test_free_text_near_a_name_without_the_extra(blood, no_extra):
    words = r"^'pericyt', 'cyto.*': no id.*did you mean by 'pericyt' 'pericyte' \(CL:0000669\)\?"
    with pytest.raises(ArgumentError, match=words):
        scgp.score_text(blood, ["pericyt", KILLER], progress=False)


# ---- errors about labels come before the reference is embedded ----


@pytest.fixture
def atlas(all_blood):
    """Labels of one's own: a term by its id, one as authors write it, and one that is none."""
    atlas = all_blood[120:400].copy()
    names = {"CL:0000236": "CL:0000236", "CL:0000623": "NK cells"}
    atlas.obs["own"] = atlas.obs["cell_type"].map(names).fillna("cluster_0000001")
    return atlas


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (["B cell", KILLER], {}, r"^'cytotoxic.*pip install '\.\[text\]'"),
        (["B cell", " "], {}, r"labels\[1\] is ' '"),
        (["B cell", "CL:9999999"], {}, "'CL:9999999' reads as an ontology id"),
        (["B cell", "cluster_0000002"], {}, "'cluster_0000002' reads as an ontology id"),
        (["B cell", "Unknown"], {}, "'Unknown', which is written where none"),
        (["B cell"], {"encoder": "all-MiniLM-L6-v2"}, "encoder is a str"),
        (["B cell"], {"coverage": 0.9}, "coverage= and labels= do not go together"),
    ],
)
def test_errors_that_need_no_index(blood, atlas, no_extra, monkeypatch, labels, options, words):
    monkeypatch.setattr(sys.modules["scgp.embed"], "embed_rows", None)
    with pytest.raises(ArgumentError, match=words):
        scgp.annotate(
            blood, reference=atlas, label_key="own", labels=labels, progress=False, **options
        )


@pytest.mark.filterwarnings("ignore::scgp.errors.ScgpWarning")
def test_labels_of_the_reference_need_no_encoder(blood, atlas, no_extra):
    labels = ["cluster_0000001", "NK cells", "B cell"]
    found = scgp.annotate(
        blood, reference=atlas, label_key="own", labels=labels, progress=False, copy=True
    )
    terms = ["", "CL:0000623", "CL:0000236"]
    assert found.uns["scgp"]["labels_ontology_term_ids"] == terms


@pytest.mark.filterwarnings("ignore::scgp.errors.ScgpWarning")
def test_the_encoder_is_made_once(blood, atlas, minilm, monkeypatch):
    made = []

    def make():
        made.append(minilm)
        return minilm

    monkeypatch.setattr(TextEncoder, "minilm", make)
    scgp.annotate(
        blood, reference=atlas, label_key="own", labels=["B cell", KILLER], progress=False
    )
    assert len(made) == 1


# ---- progress bars ----


def test_no_bar_is_imported_where_none_is_drawn(blood, blood_index, monkeypatch):
    """In a notebook without ipywidgets the import of tqdm.auto warns."""
    imported = []
    real = builtins.__import__

    def watched(name, *args, **kwargs):
        imported.append(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", watched)
    scgp.embed(blood, progress=False)
    assert "tqdm.auto" not in imported
    assert not hasattr(sys.modules["scgp.embed"], "tqdm")
    scgp.embed(blood, progress=True)
    assert "tqdm.auto" in imported
