"""How contexts of a gene become roles, on synthetic embeddings with and without planted roles."""

import numpy as np
import pytest

from scgp import roles
from scgp.in_context import role_groups
from scgp.in_context.reading import CellsToRead, Read
from scgp.in_context.role_groups import Noise, joined, noise_of, silhouette

WIDTH, PER_CONTEXT = 16, 30
#: Standard deviations of the cell's state, which all genes carry, and of each gene's own part.
STATE, OWN = 0.6, 0.1


class Planted(CellsToRead):
    """Cells whose genes are read as synthetic embeddings: the cell's state and noise of their own.

    One gene has besides what is planted in the contexts of the second half.
    """

    def read(self, choose, network=None, *, tell=False):
        (rows,) = self.blocks()
        tokens = self.model.tokenizer.tokenize(rows, self.token_V)
        gene_BQ = choose(tokens, 0)
        rng = np.random.default_rng(self.seed)
        state_BD = rng.normal(0, STATE, (self.n_cells, 1, WIDTH))
        context_BQD = state_BD + rng.normal(0, OWN, (*gene_BQ.shape, WIDTH))
        second_B = self.code_C >= self.n_contexts // 2
        context_BQD[..., 0] += self.gap * second_B[:, None] * (gene_BQ == self.own)
        cell_M = np.repeat(np.arange(self.n_cells), gene_BQ.shape[1])
        zero_M = np.zeros(gene_BQ.size, np.float32)
        yield Read(cell_M, gene_BQ.ravel(), zero_M, context_BQD.reshape(-1, WIDTH), zero_M)


def planted(model, all_blood, *, n_contexts, gap, seed):
    """Return the interactions of a gene in synthetic embeddings of 30 cells a context."""
    rows = all_blood.X[: n_contexts * PER_CONTEXT]
    token_V = model.genes.match(all_blood.var_names).token_of_column
    cells = Planted(model, lambda: [rows], token_V, rows.shape[0])
    code_C = np.repeat(np.arange(n_contexts), PER_CONTEXT)
    own = int(model.genes.match(["CD74"]).token_of_column[0])
    facts = {"own": own, "gap": gap, "seed": seed, "code_C": code_C, "n_contexts": n_contexts}
    for name, value in facts.items():
        object.__setattr__(cells, name, value)  # frozen
    return roles._interactions(cells, own, code_C, n_contexts, seed=0)


def groups(role_K):
    return {frozenset(np.flatnonzero(role_K == role).tolist()) for role in set(role_K.tolist())}


@pytest.fixture(scope="module", autouse=True)
def _few_genes():
    """Read 100 genes: the rest would be more of the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles, "N_READ", 100)
        yield


@pytest.mark.parametrize("gap", [0.2, 0.4])
def test_planted_roles_are_found_however_much_the_state_of_cells_varies(
    context_model, all_blood, gap
):
    """The state varies six times as much as the gene's own part; its mates have it, too."""
    expected = {frozenset(range(4)), frozenset(range(4, 8))}
    for seed in range(5):
        found = planted(context_model, all_blood, n_contexts=8, gap=gap, seed=seed)
        assert groups(joined(found.of_gene_KD, found.noise, None)) == expected


def test_the_noise_is_that_of_the_interaction_not_of_the_embedding(context_model, all_blood):
    """The gene's own part and a share of its mates'; half of what differs, for equal contexts."""
    squares, noise = [], []
    for seed in range(10):
        found = planted(context_model, all_blood, n_contexts=8, gap=0, seed=seed)
        of_KK = ((found.of_gene_KD[:, None] - found.of_gene_KD) ** 2).sum(axis=-1)
        squares.append(of_KK[np.triu_indices(8, 1)].mean())
        noise.append(found.noise.square_K.mean())
        assert found.noise.freedom == pytest.approx(WIDTH, rel=0.1)
    assert np.mean(noise) == pytest.approx(OWN**2 * WIDTH / PER_CONTEXT, rel=0.1)
    assert np.mean(squares) == pytest.approx(2 * np.mean(noise), rel=0.1)


@pytest.mark.parametrize("n_contexts", [3, 8])
def test_equal_contexts_are_one_role(context_model, all_blood, n_contexts):
    """In 19 of 20 tables; distances less their noise are above 0 for half of the pairs."""
    found = [
        planted(context_model, all_blood, n_contexts=n_contexts, gap=0, seed=seed)
        for seed in range(20)
    ]
    n_roles = [len(groups(joined(x.of_gene_KD, x.noise, None))) for x in found]
    assert sum(n > 1 for n in n_roles) <= 2


def test_equal_contexts_of_few_cells_and_few_directions_are_one_role():
    """Means of 10 to 60 synthetic cells with long tails, of falling variance over 64 directions."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(100):
        code_C = np.repeat(np.arange(6), rng.integers(10, 61, 6))
        interaction_CD = rng.standard_t(4, (len(code_C), 64)) * 0.8 ** np.arange(64)
        mean_KD = np.stack([interaction_CD[code_C == k].mean(axis=0) for k in range(6)])
        noise = noise_of(interaction_CD, mean_KD, code_C)
        found.append(len(groups(joined(mean_KD, noise, None))))
    assert np.mean(np.array(found) > 1) <= 0.08


def test_of_contexts_that_are_not_apart_the_nearest_are_joined_first(monkeypatch):
    """Two synthetic roles about as far apart as noise is: asked for two, most are these."""
    rng = np.random.default_rng(0)
    expected = {frozenset(range(3)), frozenset(range(3, 6))}

    def rate():
        hits = []
        for _ in range(60):
            mean_KD = 0.02 * rng.normal(size=(6, 16))
            mean_KD[3:, 0] += 0.1
            noise = Noise(np.full(6, 16 * 0.02**2), 16.0)
            hits.append(groups(joined(mean_KD, noise, 2)) == expected)
        return np.mean(hits)

    assert rate() > 0.5
    monkeypatch.setattr(role_groups, "LEAST_APART", 0)
    assert rate() < 0.4


def test_the_noise_by_hand():
    interaction_CD = np.array([[1.0, 0], [3, 0], [0, 5], [0, 5], [0, 8]])
    code_C = np.array([0, 0, 1, 1, 1])
    noise = noise_of(interaction_CD, np.array([[2.0, 0], [0, 6]]), code_C)
    np.testing.assert_allclose(noise.square_K, [2 / 1 / 2, 6 / 2 / 3])
    assert noise.freedom == pytest.approx(8**2 / (2**2 + 6**2))  # of sums of squares 2 and 6
    same = noise_of(np.ones((4, 2)), np.ones((2, 2)), np.array([0, 0, 1, 1]))
    assert (same.square_K == 0).all()
    assert groups(joined(np.ones((2, 2)), same, None)) == {frozenset({0, 1})}


def test_contexts_of_equal_shift_are_joined_and_of_different_ones_are_not():
    rng = np.random.default_rng(0)
    far_KD = np.repeat([[5.0, 0, 0], [0, 5, 0], [0, 0, 5]], [3, 2, 4], axis=0)
    shift_KD = far_KD + 0.1 * rng.normal(size=far_KD.shape)
    noise = Noise(np.full(9, 0.03), 3.0)
    expected = {frozenset(range(3)), frozenset(range(3, 5)), frozenset(range(5, 9))}
    for n_roles in (None, 3):
        assert groups(joined(shift_KD, noise, n_roles)) == expected
    assert len(groups(joined(shift_KD, noise, 1))) == 1
    assert len(groups(joined(shift_KD, noise, 2))) == 2


@pytest.mark.parametrize("n_contexts", [2, 3, 8])
def test_as_many_roles_as_are_asked_for_where_all_is_noise(n_contexts):
    shift_KD = 0.01 * np.random.default_rng(1).normal(size=(n_contexts, 3))
    noise = Noise(np.ones(n_contexts), 3.0)
    assert len(groups(joined(shift_KD, noise, None))) == 1
    same_KD = np.ones((n_contexts, 3))
    for n_roles in range(1, n_contexts + 1):
        for given_KD in (shift_KD, same_KD):
            assert len(groups(joined(given_KD, noise, n_roles))) == n_roles


def test_two_contexts_are_one_role_unless_two_are_asked_for():
    shift_KD = np.array([[9.0, 0], [0, 9]])
    noise = Noise(np.zeros(2), 1.0)
    assert len(groups(joined(shift_KD, noise, None))) == 1
    assert len(groups(joined(shift_KD, noise, 2))) == 2


@pytest.mark.parametrize(("third", "n_roles"), [(0.6, 2), (0.7, 1)])
def test_three_contexts_are_two_roles_only_where_two_are_near_each_other(third, n_roles):
    """The first two are `third` of 10 apart, and both 10 away from the last."""
    shift_KD = np.array([[-5 * third, 0], [5 * third, 0], [0, np.sqrt(100 - 25 * third**2)]])
    assert len(groups(joined(shift_KD, Noise(np.zeros(3), 1.0), None))) == n_roles


def test_the_silhouette_is_scikit_learns():
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(2)
    point_KD = rng.normal(size=(9, 2))
    distance_KK = np.sqrt(((point_KD[:, None] - point_KD[None]) ** 2).sum(-1))
    role_K = np.array([1, 1, 2, 2, 2, 3, 3, 3, 4])  # the last is alone in its role
    expected = silhouette_score(distance_KK, role_K, metric="precomputed")
    assert silhouette(distance_KK, role_K) == pytest.approx(expected)
