"""Model: the network with its genes and texts, and how it lies on disk; the owner of safetensors.

Shape suffixes: G genes, T terms, W width of the text encoder.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_tensors

from scgp.cells.tokens import Tokenizer
from scgp.cells.vocabulary import GeneVocabulary
from scgp.errors import CheckpointError
from scgp.model.config import ModelConfig
from scgp.model.directory import load_npz, read_directory, save_npz, write_directory
from scgp.model.network import CellTransformer
from scgp.phenotypes.markers import Markers
from scgp.phenotypes.terms import Phenotypes

KIND, MANIFEST = "model", "config.json"
WEIGHTS, GENES, TEXTS, CARD = "model.safetensors", "genes.tsv", "phenotypes.npz", "README.md"
#: There since 0.5.0.
MARKERS = "markers.npz"
#: The checkpoint that lies in the package.
DEFAULT_DIRECTORY = Path(__file__).parent.parent / "checkpoints" / "default"


class Model:
    """A trained network, the genes it knows and the terms it can read: one saved bundle.

    Parameters
    ----------
    config
        Shape of the network.
    network
        The network; put in evaluation mode.
    genes
        The vocabulary; ``genes.n_genes == config.n_genes``.
    phenotypes
        Text vectors of ontology terms.
    markers
        Genes known to mark terms; None: none.
    card
        Model card (Markdown): data, licence, metrics, limits.
    details
        What else is known of the training (settings, seeds, corpus); JSON values.

    Raises
    ------
    CheckpointError
        The parts do not belong together.
    """

    def __init__(
        self,
        config: ModelConfig,
        network: CellTransformer,
        genes: GeneVocabulary,
        phenotypes: Phenotypes,
        *,
        markers: Markers | None = None,
        card: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        if genes.n_genes != config.n_genes or phenotypes.width != config.text_dim:
            msg = (
                f"config says {config.n_genes} genes and text vectors of {config.text_dim}; found "
                f"{genes.n_genes} and {phenotypes.width}"
            )
            raise CheckpointError(msg)
        self.config = config
        self.network = network.eval()
        self.genes = genes
        self.phenotypes = phenotypes
        self.markers = markers or Markers.none()
        self.card = card
        self.details = dict(details or {})
        self.directory: Path | None = None

    def __repr__(self) -> str:
        return (
            f"Model({self.config.n_genes} genes, {len(self.phenotypes.ids)} terms, "
            f"fingerprint {self.fingerprint[:12]})"
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of what makes vectors, which an index must have been made with.

        Weights, genes, and (as of 0.7.0) that vectors are the pooled view's alone, where they are.
        """
        digest = hashlib.sha256(self.genes.fingerprint.encode())
        if self.config.tokens_on_top:
            digest.update(b"pooled view alone")
        for name, tensor in sorted(stored_tensors(self.network).items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def centred_texts(self, vector_TW: np.ndarray) -> np.ndarray:
        """Take the mean text of the training types from text vectors, and scale them to length 1.

        Returns
        -------
        T x W float32; zero rows where there is no text.
        """
        moved_TW = vector_TW - self.network.text_mean.cpu().numpy()
        moved_TW /= np.maximum(np.linalg.norm(moved_TW, axis=1, keepdims=True), 1e-12)
        return np.where(vector_TW.any(axis=1, keepdims=True), moved_TW, 0.0).astype(np.float32)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the network was trained with."""
        weight_G = self.network.gene_weight_G.float().cpu().numpy()
        return Tokenizer(self.config.n_genes, self.config.n_tokens, weight_G)

    def project_terms(self, term_ids: list[str]) -> np.ndarray:
        """Project the texts of terms into the joint space.

        Returns
        -------
        T x embed_dim float32 unit rows; zero rows where a term has no text vector.
        """
        return self.project_vectors(self.phenotypes.vectors(term_ids))

    def project_vectors(self, vector_TW: np.ndarray) -> np.ndarray:
        """Project text vectors into the joint space.

        Parameters
        ----------
        vector_TW
            Unit rows, float32, of the encoder that made ``phenotypes``; zero rows stand for no
            text.

        Returns
        -------
        T x embed_dim float32 unit rows; zero rows where there is no text.
        """
        with torch.inference_mode():
            device = self.network.text.weight.device
            text_TE = (
                self.network.project_text(torch.from_numpy(vector_TW).to(device)).cpu().numpy()
            )
        return np.where(vector_TW.any(axis=1, keepdims=True), text_TE, 0.0).astype(np.float32)

    def save(
        self,
        path: str | Path,
        *,
        beside: Mapping[str, Callable[[Path], None]] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the model to a directory, at once or not at all.

        Weights are stored in half precision; a network that `round_weights` has rounded is stored
        without loss.

        Parameters
        ----------
        path
            The directory to make.
        beside
            Directories that come inside in the same step: for each name, a function that makes it
            at the path given. A model and its index: ``beside={"index": index.save}``.
        overwrite
            Replace a saved model, with all that is in its directory: an ``index/`` that stands
            there is gone afterwards, unless `beside` brings one.

        Raises
        ------
        ArgumentError
            The directory exists and `overwrite` is False, or it is no saved model.
        """
        tensors = stored_tensors(self.network)
        texts = {
            "ids": np.array(self.phenotypes.ids, dtype=str),
            "vectors": self.phenotypes.vector_TW.astype(np.float16),
        }
        files: dict[str, bytes | Callable[[Path], None]] = {
            WEIGHTS: save_tensors(tensors),
            GENES: self.genes.write,
            TEXTS: lambda target: save_npz(target, texts),
            CARD: self.card.encode(),
        }
        if len(self.markers):
            files[MARKERS] = lambda target: save_npz(target, _marker_arrays(self.markers))
        manifest = {
            "model": self.config.to_dict(),
            "encoder": self.phenotypes.encoder,
            "fingerprint": self.fingerprint,
            "details": self.details,
        }
        write_directory(
            path, files, manifest, kind=KIND, manifest_name=MANIFEST, beside=beside,
            overwrite=overwrite,
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved model; nothing in it is run.

        Raises
        ------
        CheckpointError
            A file is missing, truncated, altered or of another format.
        """
        path = Path(path).expanduser()
        manifest = read_directory(path, kind=KIND, manifest_name=MANIFEST)
        _check_contents(path, manifest)
        config = ModelConfig.from_dict(manifest["model"])
        network = CellTransformer(config)
        _fill(network, _read_tensors(path / WEIGHTS))
        texts = load_npz(path / TEXTS)
        if not {"ids", "vectors"} <= set(texts):
            msg = f"{path / TEXTS} holds {sorted(texts)}; expected ids and vectors"
            raise CheckpointError(msg)
        phenotypes = Phenotypes(tuple(texts["ids"].tolist()), texts["vectors"], manifest["encoder"])
        card = (path / CARD).read_text(encoding="utf-8")
        genes = GeneVocabulary.read(path / GENES)
        markers = _read_markers(path / MARKERS) if MARKERS in manifest["files"] else None
        model = cls(
            config, network, genes, phenotypes, markers=markers, card=card,
            details=manifest["details"],
        )  # fmt: skip
        if model.fingerprint != manifest["fingerprint"]:
            msg = f"{path}: weights and genes are not those that the manifest names"
            raise CheckpointError(msg)
        model.directory = path
        return model

    @classmethod
    def default(cls) -> "Model":
        """Return the checkpoint that lies in the package; read once a process."""
        return _default_model()


@functools.cache
def _default_model() -> Model:
    return Model.load(DEFAULT_DIRECTORY)


def load_model(path: str | Path | None = None) -> Model:
    """Read a saved model, as :meth:`Model.load` does, or the one that comes with scgp.

    Parameters
    ----------
    path
        The directory of a model; None for the default checkpoint, which is read once a process, so
        that each call returns the same object.

    Raises
    ------
    CheckpointError
        A file is missing, truncated, altered or of another format.

    Examples
    --------
    >>> load_model() is Model.default()
    True
    """
    return Model.default() if path is None else Model.load(path)


def stored_tensors(network: CellTransformer) -> dict[str, torch.Tensor]:
    """Return the weights as they are stored: half precision, on the CPU."""
    state = network.state_dict()
    return {name: tensor.detach().to("cpu", torch.float16) for name, tensor in state.items()}


def round_weights(network: CellTransformer) -> None:
    """Round weights to what half precision can store, so that saving loses nothing."""
    network.load_state_dict({k: v.float() for k, v in stored_tensors(network).items()})


def _check_contents(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that lists too little; what it lists is there and whole."""
    facts = {"model", "encoder", "fingerprint", "details"} - set(manifest)
    files = {WEIGHTS, GENES, TEXTS, CARD} - set(manifest["files"])
    if facts or files:
        msg = f"{path / MANIFEST} lacks {sorted(facts | files)}: it is not that of a whole model"
        raise CheckpointError(msg)


def _marker_arrays(markers: Markers) -> dict[str, np.ndarray]:
    ids = np.array(markers.ids, dtype=str)
    return {"ids": ids, "terms": markers.term_M, "genes": markers.gene_M}


def _read_markers(path: Path) -> Markers:
    found = load_npz(path)
    if set(found) != {"ids", "terms", "genes"}:
        msg = f"{path} holds {sorted(found)}; expected ids, terms and genes"
        raise CheckpointError(msg)
    return Markers(tuple(found["ids"].tolist()), found["terms"], found["genes"])


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except SafetensorError as error:
        msg = f"{path} is no safetensors file: {error}"
        raise CheckpointError(msg) from error


def _fill(network: CellTransformer, tensors: dict[str, torch.Tensor]) -> None:
    """Load every weight; a missing, unknown or misshapen one is an error."""
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != found:
        odd = sorted({*expected.items()} ^ {*found.items()})[:3]
        msg = f"weights do not fit the config: {odd}"
        raise CheckpointError(msg)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def write_state(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    """Write a training state (tensors and strings) to one safetensors file, at once."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, facts)
    temporary.replace(path)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a training state.

    Raises
    ------
    CheckpointError
        The file is not whole.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        msg = f"{path} is not a whole training state: {error}; remove it to start afresh"
        raise CheckpointError(msg) from error
