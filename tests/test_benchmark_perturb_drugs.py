"""The benchmark of drugs: reading, baselines and scores on numbers whose answer is known.

Cells are those of the demonstration (real); the signatures are drawn.
"""

import json

import numpy as np
import pytest

import scgp
from benchmarks import perturb_drugs as benchmark
from benchmarks import perturb_signatures as reading
from benchmarks.perturb_targets import ACTIVATED, INHIBITED, LEFT_OUT, TARGETS

LABELS = {
    "CD19+ B": "B cell",
    "CD56+ NK": "natural killer cell",
    "CD8+ Cytotoxic T": "CD8-positive, alpha-beta T cell",
    "CD14+ Monocyte": "CD14-positive monocyte",
}
#: In the demonstration's genes: JAK1; CDK6 is rare, TOP1 in NK cells; CDK4 and NR3C1 are missing.
DRUGS = ("GLPG0634", "Palbociclib", "Topotecan", "Prednisolone", "Amiodarone")
N_GENES = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as of the shared data: cells with labels, and a permutation of ranks for each."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "train").mkdir()
    (folder / "resources" / "perturb").mkdir(parents=True)
    cells = scgp.demo.counts()
    cells.obs["cell_type"] = cells.obs["bulk_labels"].astype(str).map(LABELS).fillna("platelet")
    cells.write_h5ad(folder / "train" / "cells.h5ad")
    often = np.argsort(-np.diff(cells.X.tocsc().indptr), kind="stable")[:N_GENES]
    genes = [*cells.var_names[often], "NOT-IN-THE-FILE"]
    rng = np.random.default_rng(0)
    rank = np.stack(
        [[rng.permutation(len(genes)) for _ in DRUGS] for _ in reading.LINEAGES]
    ).astype(np.int16)
    np.savez(
        folder / "resources" / "perturb" / "op3_pbmc_drug_rank_signatures.npz",
        rank=rank, cell_type=np.array(["myeloid", "t", "nk", "b"]), drug=np.array(DRUGS),
        gene=np.array(genes),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def real(data):
    known = set(scgp.load_model().genes.symbol.tolist())
    return reading.signatures(data, file="cells", known=known, factor=2.0)


def test_the_table_of_targets_is_whole():
    assert not set(TARGETS) & set(LEFT_OUT)
    assert len(TARGETS) == len(INHIBITED) + len(ACTIVATED)  # nothing is both
    assert len(TARGETS) + len(LEFT_OUT) == 135
    assert TARGETS["Prednisolone"] == (1, ("NR3C1",))
    assert TARGETS["Trametinib"] == (-1, ("MAP2K1", "MAP2K2"))
    assert all(len(set(symbols)) == len(symbols) > 0 for _, symbols in TARGETS.values())


def test_up_is_high_and_lineages_keep_their_own_ranks(data, real):
    with np.load(
        data / "resources" / "perturb" / "op3_pbmc_drug_rank_signatures.npz"
    ) as table:  # "b" is the last there and the first here
        order = {gene: i for i, gene in enumerate(table["gene"].tolist())}
        ranks = table["rank"][3, 1, [order[x] for x in real.genes]]
    n_all = N_GENES + 1
    assert "NOT-IN-THE-FILE" not in real.genes
    np.testing.assert_allclose(real.up["Palbociclib"]["b"], (n_all - 1) / 2 - ranks)
    assert real.moves["Palbociclib"]["b"][ranks < 3].tolist() == [1] * (ranks < 3).sum()
    assert real.moves["Palbociclib"]["b"][ranks > n_all - 4].tolist() == [-1] * (ranks > 57).sum()
    assert (real.moves["Palbociclib"]["b"] != 0).sum() == ((ranks < 3) | (ranks > 57)).sum()


def test_targets_are_those_that_the_lineage_expresses(real):
    assert real.perturbed["GLPG0634"] == {x: {"JAK1": 0.0} for x in reading.LINEAGES}
    assert set(real.perturbed["Topotecan"]) == {"b", "t", "myeloid"}  # TOP1: 3 % of NK cells
    assert set(real.perturbed) == {"GLPG0634", "Topotecan"}  # CDK6 is rare, others have no ranks
    assert {x: real.cells[x].n_obs for x in real.cells} == {
        "b": 95, "nk": 31, "t": 54, "myeloid": 129
    }  # fmt: skip


def test_baselines_by_hand(real):
    said = reading.baselines(real)
    own = {d: real.up[d]["b"] for d in DRUGS}
    expected = np.mean([own[d] for d in DRUGS if d != "GLPG0634"], axis=0)
    np.testing.assert_allclose(said["mean signature of the other drugs"]["GLPG0634"]["b"], expected)
    apart = np.mean([real.up["GLPG0634"][x] for x in ("nk", "t", "myeloid")], axis=0)
    np.testing.assert_allclose(said["the same drug in the other lineages"]["GLPG0634"]["b"], apart)
    counts = real.cells["b"].to_df()
    value = np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))
    expected = [-np.corrcoef(value[x], value["JAK1"])[0, 1] for x in real.genes]
    np.testing.assert_allclose(said["co-expression, Pearson"]["GLPG0634"]["b"], expected, atol=1e-3)
    assert not said["no change"]["GLPG0634"]["b"].any()


def test_scores_tell_context_from_none():
    rng = np.random.default_rng(0)
    up = {x: rng.normal(size=400) for x in reading.LINEAGES}
    moves = {x: np.sign(y) * (np.abs(y) > 1.5) for x, y in up.items()}
    none = {x: np.zeros(400) for x in up}
    found = benchmark.scored(up, up, moves, none)
    assert found["spearman"] == pytest.approx(1)
    assert found["own part"] == pytest.approx(1)
    assert found["auroc moves"] == pytest.approx(1)
    assert found["auroc up"] == pytest.approx(1)
    assert found["context"] == pytest.approx(1, abs=0.15)
    assert found["context, centred"] == pytest.approx(1)
    down = benchmark.scored({x: -y for x, y in up.items()}, up, moves, none)
    assert down["auroc moves"] == pytest.approx(1)
    assert down["auroc up"] == pytest.approx(0)
    # the same in all lineages, as good as can be: no context
    same = np.mean(list(up.values()), axis=0)
    found = benchmark.scored(dict.fromkeys(up, same), up, moves, none)
    assert found["spearman"] > 0.3
    assert found["context"] == pytest.approx(0, abs=1e-9)
    assert found["context, centred"] == 0
    # what is general is not the drug's own
    assert benchmark.scored(up, up, moves, {x: 0.9 * y for x, y in up.items()})[
        "own part"
    ] == pytest.approx(1)
    mixed = {x: y + rng.normal(size=400) for x, y in up.items()}
    assert abs(benchmark.scored(up, mixed, moves, up)["own part"]) < 0.1
    assert np.isnan(benchmark.scored({"b": up["b"]}, up, moves, none)["context, centred"])


def test_drugs_of_the_same_targets_are_drawn_together():
    value = np.array([1.0] * 20 + [0.0])
    apart = benchmark.mean_of(value, np.arange(21))
    together = benchmark.mean_of(value, np.array([0] * 20 + [1]))
    assert apart[0] == together[0] == pytest.approx(20 / 21)
    assert apart[1] > 0.8
    assert together[1] == 0
    assert benchmark.mean_of(np.array([np.nan, 2]), np.array([0, 1])) == [2, 2, 2]


def test_a_deletion_is_asked_of_the_verb(real):
    model, cells = scgp.load_model(), real.cells["b"]
    genes = np.array([*real.genes, "JAK1"])
    said = benchmark.ask(model, cells, genes, {"JAK1": 0.0}, n_cells=5, seed=0)
    assert np.isnan(said[genes == "JAK1"]).all()
    assert np.isfinite(said[genes != "JAK1"]).all()
    assert np.ptp(said[genes != "JAK1"]) > 0
    found = scgp.perturb(
        cells, {"JAK1": 0.0}, genes=["CD74"], n_null=0, max_cells=5, model=model, progress=False
    ).expression
    assert said[genes == "CD74"] == pytest.approx(found["shift_all"].to_numpy(), rel=1e-3)
    matched = benchmark.in_place(model, cells, {"JAK1": 0.5, "TOP1": 3.0}, 2)
    assert [sorted(x.values()) for x in matched] == [[0.5, 3.0]] * 2
    drawn = [gene for x in matched for gene in x]
    assert len(set(drawn)) == 4
    assert not {"JAK1", "TOP1"} & set(drawn)


def test_from_the_command_line(data, tmp_path, capsys):
    benchmark.main(
        ["--data", str(data), "--file", "cells", "--seeds", "0", "1", "--cells", "2",
         "--drugs", "GLPG0634", "Topotecan", "--results", str(tmp_path)]
    )  # fmt: skip
    found = json.loads((tmp_path / "perturb_drugs.json").read_text(encoding="utf-8"))
    assert set(found["lineages"]) == {"GLPG0634", "Topotecan"}
    assert found["sets"] == 2
    of = found["methods"]
    assert of["no change"]["spearman"]["mean"] == [0, 0, 0]
    assert of["no change"]["auroc moves"]["mean"] == [0.5, 0.5, 0.5]
    assert of["scgp"]["spearman"]["mean"][0] != 0
    own = of["scgp"]["spearman"]["drugs"]["GLPG0634"]
    other = of["scgp, matched genes in place of the targets"]["spearman"]["drugs"]["GLPG0634"]
    assert own != other
    lead = found["leads"]["no change"]["spearman"][0]
    assert lead == pytest.approx(of["scgp"]["spearman"]["mean"][0])
    text = (tmp_path / "perturb_drugs.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "{" not in text
