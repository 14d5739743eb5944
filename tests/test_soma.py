"""A SOMA experiment made of real cells: read, filtered, refused, and trained on as if in memory."""

import sys
import threading
from contextlib import contextmanager

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from benchmarks import pretrain_census
from scgp import train
from scgp.cells import soma, stored
from scgp.cells.corpus import read_corpus
from scgp.cells.dataset import CellDataset
from scgp.cells.sampling import Sampler
from scgp.cells.soma import SomaCells, SomaSource
from scgp.errors import ArgumentError, CountsError, GeneError, MissingColumnError
from scgp.model.config import ModelConfig, TrainConfig
from scgp.reference.index import ReferenceIndex
from scgp.training import loop

tiledbsoma = pytest.importorskip("tiledbsoma", reason="needs tiledbsoma of scgp[census]")
pytest.importorskip("tiledbsoma.io")

# As the Census names them.
KEYS = {
    "label_key": "cell_type_ontology_term_id", "study_key": "dataset_id", "donor_key": "donor_id",
    "tissue_key": "tissue_ontology_term_id", "disease_key": "disease_ontology_term_id",
}  # fmt: skip
QUERY = "is_primary_data == True and tissue_general == 'blood'"


@pytest.fixture(scope="module")
def cells(all_blood, model):
    """Real cells with the columns of the Census; studies and donors are dealt, tissues too."""
    rows = np.arange(700)
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": pd.Categorical(all_blood.obs["cell_type"].astype(str)),
            "dataset_id": pd.Categorical([f"data {i % 3}" for i in rows]),
            "donor_id": [f"donor_of_{i % 3}_{i % 2}x" for i in rows],
            "tissue_ontology_term_id": "UBERON:0000178",
            "tissue_general": np.where(rows % 5 == 0, "lung", "blood"),
            "disease_ontology_term_id": pd.Categorical(np.where(rows % 2, "PATO:0000461", "")),
            "is_primary_data": rows % 7 > 0,
            "assay_ontology_term_id": np.where(rows % 11, "EFO:0009922", "EFO:0008931"),
        },
        index=[f"cell {i}" for i in rows],
    )
    token_V = model.genes.match(all_blood.var_names).token_of_column
    ids = [f"unknown_{v}" if t < 0 else model.genes.ensembl[t] for v, t in enumerate(token_V)]
    var = pd.DataFrame({"feature_name": all_blood.var_names}, index=ids)
    layers = {"normalized": all_blood.X.log1p()}
    return ad.AnnData(sp.csr_matrix(all_blood.X), obs=obs, var=var, layers=layers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("soma")


@pytest.fixture(scope="module")
def uri(cells, folder):
    """A local experiment; from_anndata is given a copy, since it may write to it."""
    path = str(folder / "blood.soma")
    options = {"measurement_name": "RNA", "X_layer_name": "raw", "var_id_name": "feature_id"}
    return tiledbsoma.io.from_anndata(path, cells.copy(), **options)


@pytest.fixture(scope="module")
def h5ad(cells, folder):
    path = folder / "blood.h5ad"
    cells.write_h5ad(path)
    return path


def same(first, second):
    for a, b in zip((first.data, first.indices, first.indptr),
                    (second.data, second.indices, second.indptr), strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_an_experiment_reads_as_the_cells_it_was_made_of(cells, uri, model):
    of_soma = CellDataset(f"soma://{uri}", model.genes, label_key=KEYS["label_key"])
    of_cells = CellDataset(cells, model.genes, label_key=KEYS["label_key"])
    assert (of_soma.n_cells, of_soma.source_names) == (700, ["blood"])
    same(of_soma.in_memory(), of_cells.in_memory())
    index_B = np.array([600, 3, 3, 0, 699, 250])
    same(of_soma.take(index_B), of_cells.take(index_B))
    same(of_soma.block(0, 690, 900), of_cells.block(0, 690, 900))
    for key in ["cell_type_ontology_term_id", "donor_id", "is_primary_data", "dataset_id"]:
        np.testing.assert_array_equal(of_soma.column(key), of_cells.column(key))
    np.testing.assert_array_equal(of_soma.measured_SG, of_cells.measured_SG)
    of_soma.close()
    assert of_soma._cells[0]._experiment.closed


def test_a_query_takes_the_cells_for_which_it_holds(cells, uri, model):
    held = cells[cells.obs["is_primary_data"] & (cells.obs["tissue_general"] == "blood")]
    assert 0 < held.n_obs < 600
    found = CellDataset([SomaSource(uri, obs_query=QUERY)], model.genes, study_key="dataset_id")
    same(found.in_memory(), CellDataset(held, model.genes).in_memory())
    np.testing.assert_array_equal(found.study, held.obs["dataset_id"].astype(str))
    found.close()
    none = CellDataset(SomaSource(uri, obs_query="tissue_general == 'eye'"), model.genes)
    assert none.in_memory().shape == (0, model.genes.n_genes)
    assert none.column("donor_id").size == 0
    none.close()


def test_the_script_for_the_census_takes_each_cell_once_and_umi_assays_alone(
    cells, uri, model, tmp_path
):
    """On a local experiment that lies as the human cells of a release do."""
    (tmp_path / "census_data").mkdir()
    (tmp_path / "census_data" / "homo_sapiens").symlink_to(uri)
    source = pretrain_census.source_of(str(tmp_path), "tissue_general == 'blood'")
    assert source.by_tiles
    assert not source.config
    kept = cells.obs["is_primary_data"] & (cells.obs["tissue_general"] == "blood")
    kept &= cells.obs["assay_ontology_term_id"] == "EFO:0009922"
    found = read_corpus(source, model.genes, **pretrain_census.KEYS)
    assert found.n_cells == kept.sum() < 500
    whole = CellDataset(cells[kept], model.genes).in_memory().astype(np.float32)
    assert (found.count_NG[:] != whole).nnz == 0
    found.close()
    public = pretrain_census.source_of("s3://somewhere", None)
    assert public.config["vfs.s3.no_sign_request"] == "true"


def test_genes_are_matched_by_id_and_the_index_of_an_anndata_serves_too(cells, folder, model):
    symbols = pd.DataFrame(index=cells.var["feature_name"].to_numpy())
    named = ad.AnnData(cells.X, obs=cells.obs[["donor_id"]], var=symbols)
    path = tiledbsoma.io.from_anndata(
        str(folder / "symbols.soma"), named, measurement_name="RNA", X_layer_name="raw"
    )
    by_symbol = CellDataset(SomaSource(path), model.genes)
    same(by_symbol.in_memory(), CellDataset(cells, model.genes).in_memory())
    by_symbol.close()


def test_rows_far_apart_and_buffers_that_hold_a_part_of_them(cells, uri, model):
    """A read that comes in many pieces, none of them whole rows."""
    source = SomaSource(uri, config={"soma.init_buffer_bytes": 4096})
    small = CellDataset(source, model.genes)
    same(small.in_memory(), CellDataset(cells, model.genes).in_memory())
    small.close()


SHORT = TrainConfig(
    pool_steps=6, steps=4, batch_size=24, masked_cells=6, context_cells=8, queries=8,
    learning_rate=1e-2,
)  # fmt: skip


def fit(data, out, model, *, context=0, **changed):
    config = ModelConfig(
        n_genes=model.genes.n_genes, n_tokens=8, width=16, n_layers=1 - context, pool_width=16,
        embed_dim=16, text_dim=model.phenotypes.width, context_layers=context,
    )  # fmt: skip
    options = {
        **KEYS, "config": config, "settings": SHORT, "progress": False, "device": "cpu",
        "calibrate_on_studies": False,
    }  # fmt: skip
    return train(data, out=out, **{**options, **changed})


def assert_same_run(first, second):
    (a, a_out), (b, b_out) = first, second
    weights = b.network.state_dict()
    for name, tensor in a.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert a.fingerprint == b.fingerprint
    one, two = (ReferenceIndex.load(out / "index") for out in (a_out, b_out))
    np.testing.assert_array_equal(one.vectors_ND, two.vectors_ND)
    assert one.calibration == two.calibration


@pytest.fixture
def reads(monkeypatch):
    """Rounds of 60 cells, and how each stored matrix was read while it was trained on."""
    monkeypatch.setattr(stored, "ROUND_CELLS", 60)
    seen = []
    real = Sampler.ahead

    @contextmanager
    def ahead(self, rows_of, steps):
        counts = self.corpus.count_NG
        is_stored = isinstance(counts, stored.StoredCounts)
        if is_stored:
            counts.reads = stored.Reads()
            seen.append(counts.reads)
        with real(self, rows_of, steps):
            yield
        if is_stored:
            counts.reads = stored.Reads()  # what is read after the steps is another matter

    monkeypatch.setattr(Sampler, "ahead", ahead)
    return seen


@pytest.mark.parametrize("context", [0, 1])
def test_streamed_from_an_experiment_the_weights_are_those_of_the_h5ad(
    uri, h5ad, model, tmp_path, reads, context
):
    streamed = fit(SomaSource(uri), tmp_path / "soma", model, context=context)
    assert len(reads) == 1
    assert reads[0].rounds > 3
    assert reads[0].missed == 0  # all that the steps asked for was read ahead
    assert reads[0].ahead <= reads[0].asked
    whole = fit(h5ad, tmp_path / "h5ad", model, context=context)
    assert len(reads) == 1
    assert_same_run((streamed, tmp_path / "soma"), (whole, tmp_path / "h5ad"))


def test_calibration_index_and_drawn_cells_are_the_same_too(
    cells, uri, h5ad, model, tmp_path, reads
):
    """Half of the cells of an experiment, the others of a file without labels, and drawn ones."""
    drawn = cells[:80].copy()
    drawn.obs["profile"] = drawn.obs["cell_type_ontology_term_id"].astype(str) + " profile"
    query = "tissue_general == 'blood'"
    part = cells[cells.obs["tissue_general"] == "blood"].copy()
    more = {"unlabelled": h5ad, "drawn": [drawn], "calibrate_on_studies": True}
    streamed = fit([SomaSource(uri, obs_query=query)], tmp_path / "a", model, **more)
    whole = fit(part, tmp_path / "b", model, **more)
    assert len(reads) == 4  # three folds and all cells
    assert not any(r.missed for r in reads)
    assert streamed.details["calibration"] is not None
    assert_same_run((streamed, tmp_path / "a"), (whole, tmp_path / "b"))


def test_by_tiles_the_weights_are_those_of_memory_and_others_than_cell_by_cell(
    uri, model, tmp_path, reads, monkeypatch
):
    for module in ("scgp.cells.soma", "scgp.cells.dataset"):
        monkeypatch.setattr(sys.modules[module], "TILE_ROWS", 32)
    for name in ("ROUND_STEPS", "TILES"):
        monkeypatch.setattr(sys.modules["scgp.cells.sampling"], name, 4)
    source = SomaSource(uri, by_tiles=True)
    streamed = fit(source, tmp_path / "a", model)
    whole = fit(source, tmp_path / "b", model, stream=False)
    assert len(reads) == 1
    assert (reads[0].rounds, reads[0].missed) == (3, 0)  # steps 0 to 3, 4 to 7, 8 and 9
    assert_same_run((streamed, tmp_path / "a"), (whole, tmp_path / "b"))
    by_cells = fit(SomaSource(uri), tmp_path / "c", model, stream=False)
    assert by_cells.fingerprint != streamed.fingerprint


def test_a_file_is_streamed_with_the_same_weights(h5ad, model, tmp_path, reads):
    streamed = fit(h5ad, tmp_path / "a", model, stream=True)
    assert len(reads) == 1
    assert reads[0].missed == 0
    whole = fit(h5ad, tmp_path / "b", model)
    assert_same_run((streamed, tmp_path / "a"), (whole, tmp_path / "b"))


def test_an_excerpt_of_a_large_corpus_is_the_same_streamed_or_not(
    uri, model, tmp_path, monkeypatch
):
    """What is read off the corpus once is read off 300 of the 700 cells."""
    real = sys.modules["scgp.train"].excerpt
    monkeypatch.setattr(sys.modules["scgp.cells.excerpt"], "TILE_ROWS", 16)
    chosen = []

    def excerpt(corpus, class_N, *, seed):
        chosen.append(real(corpus, class_N, seed=seed, most=300, most_tiles=30))
        return chosen[-1]

    monkeypatch.setattr(sys.modules["scgp.train"], "excerpt", excerpt)
    streamed = fit(SomaSource(uri), tmp_path / "a", model)
    whole = fit(SomaSource(uri), tmp_path / "b", model, stream=False)
    np.testing.assert_array_equal(*chosen)
    assert 250 < len(chosen[0]) <= 300
    assert_same_run((streamed, tmp_path / "a"), (whole, tmp_path / "b"))
    assert len(ReferenceIndex.load(tmp_path / "a" / "index").vectors_ND) <= 300


def test_interrupted_and_resumed_is_as_if_uninterrupted(uri, model, tmp_path, monkeypatch):
    """In the middle of a round."""
    for name in ("ROUND_STEPS", "TILES"):
        monkeypatch.setattr(sys.modules["scgp.cells.sampling"], name, 4)
    source = SomaSource(uri, by_tiles=True)
    whole = fit(source, tmp_path / "whole", model)
    real, calls = loop.Objective.forward, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Objective, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(source, tmp_path / "model", model)
    assert not [t for t in threading.enumerate() if t.name.startswith("scgp-counts")]
    resumed = fit(source, tmp_path / "model", model)
    assert_same_run((resumed, tmp_path / "model"), (whole, tmp_path / "whole"))


def test_an_unfinished_run_is_known_by_its_source_and_cells(uri, model):
    def identity(source):
        corpus = read_corpus(source, model.genes, **KEYS)
        arrays = [array.tobytes() for array in corpus.count_arrays()]
        part = corpus.part(np.arange(9)).count_arrays()[0].tobytes()
        corpus.close()
        assert part != arrays[0]
        return arrays

    assert identity(SomaSource(uri)) == identity(f"soma://{uri}")
    assert identity(SomaSource(uri)) != identity(SomaSource(uri, obs_query=QUERY))
    assert identity(SomaSource(uri)) != identity(SomaSource(uri, by_tiles=True))


def test_a_value_that_is_no_count_ends_the_run(cells, folder, model, tmp_path):
    """Row 300 is in none of the places that are looked at first."""
    rows = np.tile(np.arange(700), 2)
    names = [f"cell {i}" for i in range(1400)]
    matrix = cells.X[rows]
    matrix.data[matrix.indptr[300] : matrix.indptr[301]] = 0.5
    broken = ad.AnnData(matrix, obs=cells.obs.iloc[rows].set_axis(names), var=cells.var)
    path = tiledbsoma.io.from_anndata(
        str(folder / "broken.soma"), broken, measurement_name="RNA", X_layer_name="raw",
        var_id_name="feature_id",
    )  # fmt: skip
    with pytest.raises(CountsError, match=r"X\['raw'\] does not hold raw counts: cell '300'"):
        fit(SomaSource(path), tmp_path / "model", model)


def test_tiles_are_of_join_ids_and_go_on_through_all_sources(cells, uri, model, monkeypatch):
    monkeypatch.setattr(sys.modules["scgp.cells.dataset"], "TILE_ROWS", 100)
    source = SomaSource(uri, obs_query="tissue_general == 'lung'", by_tiles=True)
    both = CellDataset([source, cells[:250]], model.genes)
    of_soma = np.flatnonzero(cells.obs["tissue_general"] == "lung") // 100
    of_cells = np.arange(250) // 100 + 7
    np.testing.assert_array_equal(both.tiles(), np.concatenate([of_soma, of_cells]))
    assert both.by_tiles
    both.close()
    corpus = read_corpus(cells[:250], model.genes, **KEYS, unlabelled=[source], drawn=[])
    np.testing.assert_array_equal(corpus.tile_N, np.concatenate([of_cells - 7, of_soma + 3]))
    corpus.close()


def test_only_named_columns_of_obs_are_read(uri, monkeypatch):
    asked = []
    real = soma.SomaColumns._read

    def read(self, names):
        asked.append(names)
        return real(self, names)

    monkeypatch.setattr(soma.SomaColumns, "_read", read)
    cells = SomaCells(SomaSource(uri))
    assert "donor_id" in cells.obs
    assert cells.obs["donor_id"].dtype == "category"
    assert asked == [["soma_joinid"], ["donor_id"]]
    cells.close()


def test_cells_of_a_table_in_another_order_rise_by_join_id():
    """As where obs is indexed by another column; a table in memory stands for it (synthetic)."""
    pa = pytest.importorskip("pyarrow")
    rows = {"soma_joinid": np.array([7, 2, 5]), "donor": ["g", "b", "e"]}

    class Table:
        schema = pa.schema([("soma_joinid", pa.int64()), ("donor", pa.large_string())])

        def read(self, column_names, value_filter):
            self.concat = lambda: pa.table({name: rows[name] for name in column_names})
            return self

    columns = soma.SomaColumns(Table(), None)
    assert columns.joinid_N.tolist() == [2, 5, 7]
    assert columns["donor"].tolist() == ["b", "e", "g"]


def test_without_tiledbsoma_the_extra_is_named(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    with pytest.raises(ArgumentError, match=r"pip install '\.\[census\]'"):
        CellDataset("soma:///somewhere", model.genes)


def test_what_is_no_experiment_is_refused(uri, folder, h5ad, model):
    for address in (folder / "absent", h5ad):
        with pytest.raises(ArgumentError, match="there is no SOMA experiment at"):
            CellDataset(f"soma://{address}", model.genes)
    with pytest.raises(ArgumentError, match="census_data/homo_sapiens"):
        CellDataset(SomaSource(f"{uri}/ms/RNA"), model.genes)
    with pytest.raises(ArgumentError, match="soma:// and the address"):
        CellDataset(uri, model.genes)  # a folder, and no word that it is SOMA


def test_a_measurement_or_layer_that_is_not_there_is_named_with_those_that_are(uri, model):
    with pytest.raises(ArgumentError, match=r"no measurement 'ATAC'; there: 'RNA'"):
        CellDataset(SomaSource(uri, measurement="ATAC"), model.genes)
    with pytest.raises(ArgumentError, match=r"no layer 'counts'; there: .*'raw'"):
        CellDataset(SomaSource(uri, layer="counts"), model.genes)
    with pytest.raises(ArgumentError, match=r"SomaSource\(uri, layer=...\)"):
        CellDataset(SomaSource(uri), model.genes, layer="raw")


def test_a_layer_without_counts_says_what_it_looks_like_and_where_counts_are(uri, model):
    message = r"X\['normalized'\] does not hold raw.*log-normalised.*pass SomaSource\(layer='raw'\)"
    with pytest.raises(CountsError, match=message):
        CellDataset(SomaSource(uri, layer="normalized"), model.genes)


def test_a_dense_layer_is_refused(cells, folder, model):
    dense = ad.AnnData(cells.X[:9].toarray(), var=cells.var)
    path = tiledbsoma.io.from_anndata(
        str(folder / "dense.soma"), dense, measurement_name="RNA", X_layer_name="raw",
        X_kind=tiledbsoma.DenseNDArray,
    )  # fmt: skip
    with pytest.raises(CountsError, match="is dense"):
        CellDataset(SomaSource(path), model.genes)


@pytest.mark.parametrize("query", ["tissue == 3 and", "nothing == 'blood'", "donor_id == 3"])
def test_a_query_that_cannot_be_read_is_shown_with_the_columns(uri, model, query):
    with pytest.raises(ArgumentError, match=r"obs_query .*donor_id") as caught:
        CellDataset(SomaSource(uri, obs_query=query), model.genes)
    assert query in str(caught.value)


def test_a_missing_column_and_missing_genes_are_named(cells, uri, folder, model):
    with pytest.raises(MissingColumnError, match=r"'blood' has no column 'study'.*'dataset_id'"):
        CellDataset(SomaSource(uri), model.genes, study_key="study")
    path = tiledbsoma.io.from_anndata(
        str(folder / "nameless.soma"), ad.AnnData(cells.X[:9], var=cells.var[[]]),
        measurement_name="RNA", X_layer_name="raw", var_id_name="thing",
    )  # fmt: skip
    with pytest.raises(GeneError, match=r"none of the columns feature_id, var_id.*thing"):
        CellDataset(SomaSource(path), model.genes)


def test_genes_may_be_named_by_an_index_called_symbol(cells, folder, model):
    named = ad.AnnData(cells.X[:9], var=cells.var[[]].rename_axis("symbol"))
    path = tiledbsoma.io.from_anndata(
        str(folder / "symbol.soma"), named, measurement_name="RNA", X_layer_name="raw",
        var_id_name="symbol",
    )  # fmt: skip
    read = CellDataset(SomaSource(path), model.genes)
    same(read.in_memory(), CellDataset(named, model.genes).in_memory())
    read.close()
