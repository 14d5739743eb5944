"""Many sources read as one matrix over the genes of a vocabulary."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scgp.cells import dataset
from scgp.cells.dataset import CellDataset
from scgp.cells.genes import GeneVocabulary
from scgp.errors import ArgumentError, CountsError, GeneError, MissingColumnError

pytestmark = pytest.mark.filterwarnings("ignore:few genes in common")  # of few there are

N_GENES = 300


@pytest.fixture(scope="module")
def vocabulary() -> GeneVocabulary:
    rows = [[f"ENSG{g:011d}", f"GENE{g}", f"OLD{g}", "", ""] for g in range(N_GENES)]
    columns = ["ensembl_id", "symbol", "previous", "aliases", "names_10x"]
    return GeneVocabulary(pd.DataFrame(rows, columns=columns))


def source(n_cells: int, seed: int, *, dtype: str = "float32") -> tuple[ad.AnnData, np.ndarray]:
    """Cells with shuffled genes and one that is unknown; and their counts over the vocabulary."""
    rng = np.random.default_rng(seed)
    gene_V = rng.permutation(N_GENES)[:250]
    count_NV = rng.poisson(0.6, (n_cells, 251))
    names = [f"GENE{g}" for g in gene_V] + ["UNKNOWN1"]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["T cell", "B/plasma cell é"], n_cells)),
            "donor": [f"donor {k % 2}" for k in range(n_cells)],
        },
        index=[f"cell {k}" for k in range(n_cells)],
    )
    adata = ad.AnnData(
        sp.csr_matrix(count_NV.astype(dtype)), obs=obs, var=pd.DataFrame(index=names)
    )
    count_NG = np.zeros((n_cells, N_GENES), dtype=np.float32)
    count_NG[:, gene_V] = count_NV[:, :250]
    return adata, count_NG


def test_sources_in_memory_and_on_disk_join_in_order(vocabulary, tmp_path):
    first, first_NG = source(7, seed=0)
    second, second_NG = source(5, seed=1, dtype="uint16")
    third, third_NG = source(4, seed=2)
    second.write_h5ad(tmp_path / "liver.h5ad")
    third.X = third.X.tocsc()
    third.write_h5ad(tmp_path / "lung.h5ad")
    backed = ad.read_h5ad(tmp_path / "lung.h5ad", backed="r")
    cells = CellDataset([first, tmp_path / "liver.h5ad", backed], vocabulary)
    expected_NG = np.concatenate([first_NG, second_NG, third_NG])
    assert (cells.n_cells, cells.n_per_source) == (16, (7, 5, 4))
    assert cells.source_names == ["source 0", "liver", "source 2"]
    np.testing.assert_array_equal(cells.in_memory().toarray(), expected_NG)
    np.testing.assert_array_equal(cells.block(1, 1, 4).toarray(), second_NG[1:4])
    assert backed.file.is_open
    cells.close()
    assert backed.file.is_open  # only what it opened is closed
    backed.file.close()


def test_take_keeps_the_order_of_the_argument(vocabulary, tmp_path):
    first, first_NG = source(7, seed=0)
    second, second_NG = source(5, seed=1)
    second.write_h5ad(tmp_path / "liver.h5ad")
    cells = CellDataset([first, str(tmp_path / "liver.h5ad")], vocabulary)
    expected_NG = np.concatenate([first_NG, second_NG])
    index_B = np.array([11, 0, 7, 6, 0, 8])
    taken = cells.take(index_B)
    assert taken.dtype == np.float32
    assert taken.has_canonical_format
    np.testing.assert_array_equal(taken.toarray(), expected_NG[index_B])
    np.testing.assert_array_equal(cells.take([2, 1]).toarray(), expected_NG[[2, 1]])
    assert cells.take(np.array([], dtype=int)).shape == (0, N_GENES)
    cells.close()


@pytest.mark.parametrize("indices", [[-1], [12], [0.5], [[0, 1]]])
def test_take_refuses_what_is_no_position(vocabulary, indices):
    cells = CellDataset([source(7, seed=0)[0], source(5, seed=1)[0]], vocabulary)
    with pytest.raises(ArgumentError, match="positions"):
        cells.take(np.array(indices))


def test_blocks_cover_all_cells(vocabulary, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK_ROWS", 3)
    adata, count_NG = source(7, seed=0)
    cells = CellDataset(adata, vocabulary)
    assert [block.shape[0] for block in cells.blocks()] == [3, 3, 1]
    np.testing.assert_array_equal(cells.in_memory().toarray(), count_NG)


@pytest.mark.filterwarnings("ignore:2 names stand for 1 genes")
def test_columns_of_one_gene_are_summed_beyond_uint16(vocabulary):
    count_NV = sp.csr_matrix(np.array([[60_000, 60_000, 3]], dtype=np.uint16))
    adata = ad.AnnData(count_NV, var=pd.DataFrame(index=["GENE1", "OLD1", "GENE0"]))
    summed = CellDataset(adata, vocabulary).in_memory()
    assert summed[0, 1] == 120_000
    assert summed[0, 0] == 3
    assert summed.dtype == np.float32


def test_small_counts_are_kept_small(vocabulary):
    assert CellDataset(source(7, seed=0)[0], vocabulary).in_memory().dtype == np.uint16


def test_measured_genes_are_those_with_a_column(vocabulary):
    first, second = source(7, seed=0)[0], source(5, seed=1)[0]
    first.X = first.X.multiply(
        np.arange(251) > 0
    ).tocsr()  # no counts is not the same as not measured
    cells = CellDataset([first, second], vocabulary)
    for adata, measured_G in zip([first, second], cells.measured_SG, strict=True):
        assert measured_G.sum() == 250
        assert all(measured_G[int(name.removeprefix("GENE"))] for name in adata.var_names[:-1])


def test_labels_are_values_and_missing_ones_are_counted(vocabulary):
    first, second = source(7, seed=0)[0], source(5, seed=1)[0]
    first.obs["cell_type"] = pd.Categorical(["a/b"] * 6 + [np.nan])
    second.obs["cell_type"] = [1.0, None, "", "é", "x"]
    cells = CellDataset([first, second], vocabulary, label_key="cell_type", donor_key="donor")
    assert cells.label.tolist() == ["a/b"] * 6 + ["", "1.0", "", "", "é", "x"]
    assert cells.n_unlabelled == 3
    assert cells.donor.tolist()[:3] == ["donor 0", "donor 1", "donor 0"]
    assert cells.study.tolist() == ["source 0"] * 7 + ["source 1"] * 5


def test_a_missing_column_names_the_columns_there_are(vocabulary):
    cells = [source(7, seed=0)[0], source(5, seed=1)[0]]
    del cells[1].obs["cell_type"]
    with pytest.raises(MissingColumnError, match=r"'source 1' has no column 'cell_type'.*'donor'"):
        CellDataset(cells, vocabulary, label_key="cell_type")


def test_sources_are_not_changed(vocabulary):
    adata = source(7, seed=0)[0]
    before = adata.copy()
    CellDataset(adata, vocabulary, label_key="cell_type").in_memory()
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert (adata.X != before.X).nnz == 0


def test_no_cells_are_no_error(vocabulary):
    cells = CellDataset(source(7, seed=0)[0][:0], vocabulary, label_key="cell_type")
    assert cells.in_memory().shape == (0, N_GENES)
    assert cells.label.size == 0


def test_layers_and_faults_come_through(vocabulary):
    adata, count_NG = source(7, seed=0)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    with pytest.raises(CountsError, match="layer='counts'"):
        CellDataset(adata, vocabulary)
    cells = CellDataset(adata, vocabulary, layer="counts")
    np.testing.assert_array_equal(cells.in_memory().toarray(), count_NG)
    adata.var_names = [f"X{k}" for k in range(adata.n_vars)]
    with pytest.raises(GeneError):
        CellDataset(adata, vocabulary, layer="counts")


def test_no_source_and_no_file_are_refused(vocabulary, tmp_path):
    with pytest.raises(ArgumentError, match="no source"):
        CellDataset([], vocabulary)
    with pytest.raises(ArgumentError, match="there is no file"):
        CellDataset(tmp_path / "absent.h5ad", vocabulary)


def test_real_files_join(shared_data):
    genes = shared_data / "resources" / "genes"
    known = GeneVocabulary.from_tables(
        genes / "hgnc_2024_slim.tsv.gz", genes / "10x_reference_symbol_to_ensembl.tsv.gz"
    )
    names = ("wu2020_tcells_scirpy", "kang2018_scgen")
    files = [shared_data / "train" / f"{name}.h5ad" for name in names]
    cells = CellDataset(
        files, known, label_key="cell_type_ontology_term_id", study_key="study", donor_key="donor"
    )
    counts = cells.in_memory()
    assert counts.shape == (1136, known.n_genes)
    assert cells.n_unlabelled == 0
    in_files = sum(ad.read_h5ad(path).X.sum(dtype=np.float64) for path in files)
    assert 0.97 * in_files < counts.sum(dtype=np.float64) <= in_files
    index_B = np.random.default_rng(0).permutation(1136)[:50]
    assert (cells.take(index_B) != counts[index_B]).nnz == 0
    cells.close()
