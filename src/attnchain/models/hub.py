"""Names to folders: a local folder as it is, a hub repository through its cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnchain.errors import ModelNotFoundError
from attnchain.models.bundled import BUNDLED
from attnchain.models.shelf import SHELF
from attnchain.optional import require

# Pickled weights are never asked for, so they can neither be fetched nor loaded.
PIPELINE = "model_index.json"
"""In the folder of a pipeline of diffusers, and only there."""
PATTERNS = (
    PIPELINE,
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


def model_folder(name: str, *, extra: str) -> Path:
    """Return the folder that holds a model's configuration and safetensors.

    Of a pipeline of diffusers in a repository it holds no more than the index.

    Args:
        name: A local folder, or a repository of the model hub.
        extra: The extra of this package that brings the hub's client.

    Raises:
        ModelNotFoundError: The folder or repository does not exist, holds no
            safetensors, or cannot be reached.
        MissingExtraError: The hub's client is not installed.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _snapshot(name, extra=extra)
    if (folder / PIPELINE).is_file():
        return folder
    missing = [
        pattern
        for pattern in ("config.json", "*.safetensors")
        if not any(folder.glob(pattern))
    ]
    if missing:
        raise not_found(name, f"{folder} holds no {' and no '.join(missing)}")
    return folder


def not_found(name: str, reason: object) -> ModelNotFoundError:
    """Return the error for a model that cannot be had, with the way out."""
    line = " ".join(str(reason).split()) or type(reason).__name__
    offline = {**SHELF, **BUNDLED}
    remedy = "" if name in offline else f"; these need no hub: {', '.join(offline)}"
    message = f"cannot load the model {name!r} ({line.removesuffix('.')}){remedy}"
    return ModelNotFoundError(message)


def _snapshot(name: str, *, extra: str) -> Path:
    hub, errors, utils = (
        require(module, extra=extra, feature=f"the model {name!r}")
        for module in (
            "huggingface_hub",
            "huggingface_hub.errors",
            "huggingface_hub.utils",
        )
    )
    refusals = (OSError, ValueError, errors.HTTPError, errors.EntryNotFoundError)
    with _no_bars(utils):
        try:
            return Path(hub.snapshot_download(name, allow_patterns=list(PATTERNS)))
        except refusals as error:
            raise not_found(name, error) from error


@contextmanager
def _no_bars(utils: Any) -> Iterator[None]:
    """Switch the hub's progress bars off and back on."""
    shown = not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()
