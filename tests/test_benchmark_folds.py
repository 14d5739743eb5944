"""Groups of studies are never split, and every one of them is held out once."""

import sys
from pathlib import Path

import anndata as ad
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.folds import GROUPS, PROFILE_STUDIES, assign_folds, group_of, study_of_profile


@given(
    sizes=st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 30), min_size=2),
    n_folds=st.integers(2, 6),
)
def test_every_group_is_held_out_exactly_once(sizes, n_folds):
    n_folds = min(n_folds, len(sizes))
    cells = [name for name, n in sizes.items() for _ in range(n)]

    folds = assign_folds(cells, n_folds=n_folds)

    held_out = [group for fold in folds for group in fold.held_out]
    assert sorted(held_out) == sorted(sizes)
    assert len(folds) == n_folds
    assert all(fold.held_out for fold in folds)


def test_order_of_cells_does_not_change_the_folds():
    cells = list("aaaabbbccd")
    assert assign_folds(cells, n_folds=3) == assign_folds(cells[::-1], n_folds=3)


def test_each_holds_out_every_group_alone():
    folds = assign_folds("aabc", n_folds=None)
    assert sorted(next(iter(fold.held_out)) for fold in folds) == ["a", "b", "c"]
    assert all(len(fold.held_out) == 1 for fold in folds)


@pytest.mark.parametrize("n_folds", [0, 1, 4])
def test_impossible_number_of_folds_says_what_is_possible(n_folds):
    with pytest.raises(ValueError, match=r"expected 2 to 3"):
        assign_folds("aabc", n_folds=n_folds)


def test_a_study_in_a_file_of_several_moves_without_its_neighbours():
    assert group_of("pbmc_7studies_mangiola", "10x PBMC6k") == group_of(
        "pbmc3k_seurat", "10x PBMC3k"
    )
    others = ["Ding 2020 (SCP424)", "SCP345 (PBMC)", "SCP591", "SRR11038995", "SRR7244582"]
    assert [group_of("pbmc_7studies_mangiola", study) for study in others] == others


def test_no_file_and_no_study_stands_in_two_groups():
    files = [file for group in GROUPS for file in group.files]
    studies = [study for group in GROUPS for study in group.studies]
    assert len(files) == len(set(files))
    assert len(studies) == len(set(studies))
    assert all(group.reason for group in GROUPS)


def test_profiles_of_a_query_study_belong_to_it():
    for ending, study in PROFILE_STUDIES.items():
        profile = f"Beta cell{ending}"
        assert study_of_profile(profile, "hcl_ref_2020") == study
        assert group_of("hcl_ref_2020", study) == group_of("baron2016_cider", study)


def test_the_table_fits_the_files(shared_data):
    files = {
        path.stem: path
        for folder in ("train", "eval", "unlabelled")
        for path in (shared_data / folder).glob("*.h5ad")
    }
    for group in GROUPS:
        for file in group.files:
            assert file in files, f"{file} of group {group.name!r} is not in the data folder"
            backed = ad.read_h5ad(files[file], backed="r")
            studies = set(backed.obs["study"].astype(str))
            backed.file.close()
            assert studies <= group.studies, f"{file} holds {studies}"
