"""Indexes that call a term by different names: one label when they become one index."""

import pandas as pd
import pytest

import scgp
from scgp.errors import ScgpWarning
from scgp.phenotypes.ontology import Ontology
from scgp.reference.index import ReferenceIndex


def test_one_term_is_one_label_by_the_name_of_the_first_index(all_blood, model):
    """Two shards of an atlas whose authors wrote other names of the same terms."""
    shards = [all_blood[0:500:2].copy(), all_blood[1:500:2].copy()]
    of_term = Ontology("CL").label
    for shard in shards:
        shard.obs["same"] = shard.obs["cell_type"].map(of_term)
    shards[1].obs["other"] = (
        shards[1]
        .obs["cell_type"]
        .map(lambda term: {"CL:0000236": "B lymphocyte"}.get(term) or of_term(term))
    )
    first, second = (
        scgp.build_index(shard, label_key="same", model=model, progress=False) for shard in shards
    )
    other = scgp.build_index(shards[1], label_key="other", model=model, progress=False)
    expected = ReferenceIndex.merge([first, second])
    with pytest.warns(ScgpWarning, match="become one label: 'B lymphocyte' as 'B cell'$"):
        found = ReferenceIndex.merge([first, other])
    asked = [all_blood[500:].copy() for _ in range(2)]
    for cells, index in zip(asked, (found, expected), strict=True):
        scgp.annotate(cells, index=index, progress=False)
    assert found.labels == expected.labels
    assert found.label_ids == expected.label_ids
    pd.testing.assert_frame_equal(asked[0].obs, asked[1].obs)


def test_two_labels_of_an_index_that_are_one_term_in_the_first(blood_index):
    """Synthetic labels: what was read of the cells of both counts."""
    first = blood_index
    label, term = next((n, i) for n, i in zip(first.labels, first.label_ids, strict=True) if i)
    with pytest.warns(ScgpWarning, match=f"'one' as '{label}', 'two' as '{label}'"):
        found = first.add(first.vectors_ND[:30], ["one", "two"] * 15, label_ids=[term, term])
    assert found.labels == first.labels
    assert found.cells_per_label_T.sum() == first.n_cells + 30
    place = first.labels.index(label)
    assert found.cells_per_label_T[place] == first.cells_per_label_T[place] + 30
