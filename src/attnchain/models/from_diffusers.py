"""Pipelines of the diffusers library, from a folder of safetensors."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from attnchain.errors import (
    ChainError,
    ModelNotFoundError,
    UnsupportedModelError,
    memory_ran_out,
)
from attnchain.models.from_transformers import DAMAGE, read_settings
from attnchain.models.hub import PIPELINE, not_found
from attnchain.models.loaded_pipeline import LoadedPipeline
from attnchain.models.quietly import quiet
from attnchain.optional import require

Libraries = dict[str, ModuleType]
OWN = "attnchain.models.pixel_space"
"""Parts of our own pipelines; diffusers takes a module it does not know if it is there
already."""
_OPTIONS = {"use_safetensors": True, "local_files_only": True}


def load_pipeline(source: Path | str, *, name: str, note: str) -> LoadedPipeline:
    """Load a pipeline of diffusers, by its own `from_pretrained`.

    Args:
        source: A folder with model_index.json, or a repository of the hub, of which
            only the parts that the pipeline has are fetched.
        name: The name shown to users.
        note: The sentence shown with it.

    Returns:
        The pipeline on the CPU, in float32.

    Raises:
        UnsupportedModelError: diffusers has no such pipeline.
        ModelNotFoundError: The files are damaged, or weights are missing.
        MissingExtraError: diffusers is not installed.
    """
    libraries = {
        library: require(library, extra="diffusers", feature=f"the model {name!r}")
        for library in ("diffusers", "transformers")
    }
    diffusers, transformers = libraries.values()
    with quiet(diffusers.utils.logging), quiet(transformers.utils.logging):
        try:
            pipeline = _pipeline(_folder(diffusers, source), libraries, name)
        except DAMAGE as error:
            if memory_ran_out(error) or isinstance(error, ChainError):
                raise
            raise not_found(name, error) from error
    pipeline.set_progress_bar_config(disable=True)
    return LoadedPipeline(name, note, pipeline)


def _folder(diffusers: ModuleType, source: Path | str) -> Path:
    if isinstance(source, Path):
        return source
    return Path(diffusers.DiffusionPipeline.download(source, use_safetensors=True))


def _pipeline(folder: Path, libraries: Libraries, name: str) -> Any:
    """The pipeline; networks are loaded one by one, so that what misses is seen."""
    index = read_settings(folder / PIPELINE)
    kind = getattr(libraries["diffusers"], str(index.get("_class_name")), None)
    if kind is None:
        raise UnsupportedModelError(
            f"the class {index.get('_class_name')} of {name!r} is not in diffusers "
            f"{libraries['diffusers'].__version__}; code of a model folder is never run"
        )
    parts: dict[str, Any] = {}
    for part, place in index.items():
        library, class_name = place if isinstance(place, list) else (None, None)
        if library == OWN:
            libraries = {**libraries, OWN: import_module(OWN)}
        found = getattr(libraries.get(str(library)), str(class_name), None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            parts[part] = _network(found, folder / part, name)
    return kind.from_pretrained(folder, **parts, **_OPTIONS)


def _network(kind: Any, folder: Path, name: str) -> nn.Module:
    """One network with all of its weights, for evaluation."""
    model, info = kind.from_pretrained(
        folder, torch_dtype=torch.float32, output_loading_info=True, **_OPTIONS
    )
    missing = {*info["missing_keys"], *(k for k, *_ in info["mismatched_keys"])}
    if missing:
        raise ModelNotFoundError(
            f"the weights of {name!r} do not fit its {folder.name}: {len(missing)} "
            f"are missing or of another shape, for example {min(missing)}"
        )
    return model.eval()
