"""Which index a model answers with."""

import dataclasses
import shutil
from pathlib import Path

import scgp
from scgp.own import model_index

MODEL = sorted((Path(__file__).parent / "releases").glob("*/model"))[-1]


def test_an_index_that_was_written_anew_is_read_anew(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    first = model_index(scgp.Model.load(folder))
    assert model_index(scgp.Model.load(folder)) is first  # and only then
    strict = dataclasses.replace(first.calibration, threshold=0.75)
    shutil.rmtree(folder / "index")
    dataclasses.replace(first, calibration=strict).save(folder / "index")
    assert model_index(scgp.Model.load(folder)).calibration.threshold == 0.75
