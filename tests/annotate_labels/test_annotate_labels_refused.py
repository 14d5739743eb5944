"""annotate(labels=...): bad input is told and changes nothing; the command line."""

import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgp.__main__ import main
from scgp.errors import ArgumentError, CountsError, ScgpWarning
from scgp.phenotypes.ontology import Ontology

sys.path.insert(0, str(Path(__file__).parent))
from labels_asked import B_CELL, KILLER, LABEL, LINEAGES

# ---- bad input: errors teach, and nothing is written ----


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "labels is empty; expected a text"),
        ("", r"labels\[0\] is ''"),
        (["B cell", " "], r"labels\[1\] is ' '"),
        (["B cell", 3], r"labels\[1\] is 3"),
        (["B cell", None], r"labels\[1\] is None"),
        (7, "labels is a int"),
        ({"B cell"}, "labels is a set"),
        (["B\0cell"], "no file can"),
        (["B cell", "CL:9999999"], "'CL:9999999' reads as an ontology id.*no live"),
        (["UBERON:0002048"], "'UBERON:0002048' reads as an ontology id"),
        (["B cell", "Unknown"], "'Unknown', which is written where none"),
    ],
)
def test_labels_that_cannot_be_read(blood, ask, state, labels, words, monkeypatch):
    monkeypatch.setattr(
        sys.modules["scgp.embed"], "embed_rows", None
    )  # before any cell is embedded
    before = state(blood)
    with pytest.raises(ArgumentError, match=words):
        ask(blood, labels, copy=False)
    assert state(blood) == before


def test_free_text_without_the_extra(blood, ask, state, no_extra):
    before = state(blood)
    with pytest.raises(ArgumentError, match=r"^'cytotoxic.*': no id.*pip install '\.\[text\]'"):
        ask(blood, ["B cell", KILLER], copy=False)
    assert state(blood) == before


@pytest.mark.parametrize("labels", [None, ["B cell"]])
def test_an_encoder_that_cannot_be_used(blood, ask, state, labels):
    before = state(blood)
    words = "encoder is a str" if labels else "encoder= reads the free texts among labels="
    with pytest.raises(ArgumentError, match=words):
        ask(blood, labels, encoder="all-MiniLM-L6-v2", copy=False)
    assert state(blood) == before


def test_two_names_of_one_term_count_once_and_are_said(blood, ask, same_answers):
    asked = ["B cell", "NK cell", "CL:0000623", "natural killer cell", "B cell"]
    with pytest.warns(ScgpWarning) as caught:
        found = ask(blood, asked)
    told = (
        f"'B cell', 'B cell' ({B_CELL}); "
        "'NK cell', 'CL:0000623', 'natural killer cell' (CL:0000623); each counts once"
    )
    assert [told in str(warning.message) for warning in caught] == [True]
    assert found.uns["scgp"]["labels"] == ["B cell", "natural killer cell"]
    same_answers(found, ask(blood, ["B cell", "natural killer cell"]))


@pytest.mark.parametrize("sort", [tuple, np.array, pd.Series, pd.Index])
def test_what_names_the_labels(blood, ask, sort):
    assert ask(blood[:3].copy(), sort(LINEAGES)).uns["scgp"]["labels"] == LINEAGES


def test_an_obsolete_id_is_its_replacement(blood, ask):
    """As in `score_text`: the ontology follows it."""
    terms = Ontology("CL")._tables.terms
    old = next(t for t in sorted(terms) if terms[t].get("deprecated") and Ontology("CL").id_of(t))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScgpWarning)  # the reference may lack it
        found = ask(blood[:3].copy(), [old, "B cell"])
    assert found.uns["scgp"]["labels_ontology_term_ids"][0] == Ontology("CL").id_of(old)


def test_errors_of_the_cells_change_nothing(blood, ask, state):
    blood.X = blood.X.log1p()
    before = state(blood)
    with pytest.raises(CountsError):
        ask(blood, LINEAGES, copy=False)
    assert state(blood) == before


@pytest.mark.parametrize("place", ["scgp.reference.answer.choose", "scgp.slots._assign"])
def test_an_interrupt_writes_nothing(blood, ask, state, monkeypatch, place):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    before = state(blood)
    with pytest.raises(KeyboardInterrupt):
        ask(blood, LINEAGES, copy=False)
    assert state(blood) == before


# ---- the command line ----


def test_the_command_line_takes_labels(blood, tmp_path):
    blood.write_h5ad(tmp_path / "in.h5ad")
    command = ["annotate", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    assert main([*command, "--labels", "T cell", "monocyte"]) == 0
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    assert set(found.obs[LABEL]) == {"T cell", "monocyte", "unknown"}
    assert list(found.uns["scgp"]["labels"]) == ["T cell", "monocyte"]


def test_the_command_line_tells_what_is_no_label(blood, tmp_path, capsys):
    blood.write_h5ad(tmp_path / "in.h5ad")
    command = ["annotate", str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad")]
    assert main([*command, "--labels", "CL:9999999"]) == 2
    assert "reads as an ontology id" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()
