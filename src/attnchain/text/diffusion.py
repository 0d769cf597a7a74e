"""A picture of one's own through one pass of a diffusion model, or one it draws."""

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import torch

from attnchain.capturing import CapturedAttention, Numbers, Selection, capture
from attnchain.checks import check_fraction, check_whole
from attnchain.errors import UnsupportedModelError
from attnchain.optional import require
from attnchain.text.prompt_attention import TextAttention, Weights, text_attention

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_TO_IMAGE = {
    "FluxPipeline": "FluxImg2ImgPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3Img2ImgPipeline",
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
}
_TEXT_LENGTH = 256
"""Most tokens of T5 that FLUX.1-schnell and Stable Diffusion 3 were trained with."""
_ONE_PASS = {
    "num_inference_steps": 1,
    "strength": 1.0,
    "guidance_scale": 1.0,
    "max_sequence_length": _TEXT_LENGTH,
    "output_type": "latent",
}


def show_picture(
    pipeline: Any,
    picture: "Image",
    prompt: str,
    *,
    noise: float = 0.5,
    size: int | None = None,
    layers: Numbers = None,
    seed: int = 0,
    **selection: Unpack[Selection],
) -> CapturedAttention:
    """Attention of a pipeline that sees a picture: encode, add noise, one pass.

    The picture is resized, encoded by the pipeline's autoencoder, noised and shown to
    the denoiser once, without guidance. The pipeline is left as it is.

    Args:
        pipeline: A text-to-image pipeline of diffusers: FLUX.1, Stable Diffusion 1,
            2, XL or 3, loaded by its `from_pretrained`.
        picture: A Pillow picture.
        prompt: Text that holds the words to look for: "a cat, grass, sky".
        noise: Noise level in (0, 1]: the sigma of a flow-matching model, and the
            fraction of the training time steps of the others.
        size: Longer side in pixels; by default what the pipeline generates.
        layers: Blocks to read, see `capture`; all by default.
        seed: Of the noise.
        **selection: See `Selection`.

    Returns:
        What `capture` kept, for `text_attention`.

    Raises:
        UnsupportedModelError: A pipeline we cannot show a picture to.
        ArgumentError: A noise level outside (0, 1].
        MissingExtraError: diffusers is not installed.
    """
    check_fraction(noise, "noise")
    reader, options = _reader(pipeline, noise)
    shape = _size(pipeline, picture, size)
    options |= {
        **_ONE_PASS,
        "prompt": prompt,
        "image": picture.convert("RGB").resize(shape),
        **dict(zip(("width", "height"), shape, strict=True)),
        "generator": torch.Generator().manual_seed(seed),
    }
    with torch.no_grad(), capture(reader, layers=layers, **selection) as captured:
        _run(reader, options)
    return captured


def read_diffusion(
    pipeline: Any,
    picture: "Image",
    prompt: str,
    *,
    weights: Weights = "lambda2",
    **shown: Any,
) -> TextAttention:
    """Attention between a prompt and a picture that a pipeline is shown once.

    Args:
        pipeline: A text-to-image pipeline, see `show_picture`.
        picture: A Pillow picture.
        prompt: Text that holds the words to look for: "a cat, grass, sky".
        weights: See `text_attention`.
        **shown: noise, size, layers, seed and others of `show_picture`.

    Returns:
        `TextAttention`.

    Raises:
        UnsupportedModelError: A pipeline we cannot show a picture to.
        ArgumentError: A noise level outside (0, 1].
        MissingExtraError: diffusers is not installed.

    Sources:
        The protocol of ConceptAttention, arXiv 2502.04320: noise level 500 of 1000,
        one pass; the last ten two-stream blocks of FLUX.1 are `layers=range(9, 19)`.
    """
    captured = show_picture(pipeline, picture, prompt, **shown)
    found = text_attention(captured, pipeline=pipeline, prompt=prompt, weights=weights)
    return replace(found, picture=picture)


def read_generation(
    pipeline: Any,
    prompt: str,
    *,
    n_steps: int | None = None,
    size: int | None = None,
    layers: Numbers = None,
    weights: Weights = "lambda2",
    seed: int = 0,
    **selection: Unpack[Selection],
) -> tuple[TextAttention, ...]:
    """Attention between a prompt and the picture drawn from it, step by step.

    Args:
        pipeline: A text-to-image pipeline of diffusers whose text tokens are known,
            see `attnchain.capturing.prompt_tokens`. What it would do by itself is
            done: its scheduler, its guidance.
        prompt: What is drawn.
        n_steps: Denoising steps; by default what the pipeline takes.
        size: Height and width in pixels; by default what the pipeline draws.
        layers: Blocks to read, see `capture`; all by default.
        weights: Over blocks and heads of one step, see `text_attention`.
        seed: Of the noise that it begins with.
        **selection: See `Selection`; `steps` reads some of the steps only.

    Returns:
        One `TextAttention` for each step that was read, with the finished picture;
        those of `text_attention` mix all steps instead.

    Raises:
        UnsupportedModelError: The pipeline reads no text, or in an order not known.
        ArgumentError: Fewer than one step, or a size it does not draw.
    """
    if n_steps is not None:
        check_whole(n_steps, "n_steps")
    if not hasattr(pipeline, "tokenizer"):
        message = f"{type(pipeline).__name__} draws without a text; give one that reads"
        raise UnsupportedModelError(f"{message} prompts")
    options = {
        "prompt": prompt,
        "num_inference_steps": n_steps,
        "width": size,
        "height": size,
        "max_sequence_length": _TEXT_LENGTH,
        "generator": torch.Generator().manual_seed(seed),
    }
    given = {name: value for name, value in options.items() if value is not None}
    with torch.no_grad(), capture(pipeline, layers=layers, **selection) as captured:
        picture = _run(pipeline, given).images[0]
    read: Any = {"pipeline": pipeline, "prompt": prompt, "weights": weights}
    numbers = sorted({record.site.step or 0 for record in captured})
    levels = [text_attention(captured, **read, steps=[number]) for number in numbers]
    return tuple(replace(level, picture=picture) for level in levels)


def _run(pipeline: Any, options: dict[str, Any]) -> Any:
    """Calls a pipeline with those of the options that it knows."""
    known = inspect.signature(type(pipeline).__call__).parameters
    return pipeline(**{name: value for name, value in options.items() if name in known})


def _reader(pipeline: Any, noise: float) -> tuple[Any, dict[str, Any]]:
    """The same parts as a picture-to-picture pipeline, and its only time step."""
    name = type(pipeline).__name__
    if name not in IMAGE_TO_IMAGE:
        message = (
            f"{name} cannot be shown a picture here; known are "
            f"{', '.join(IMAGE_TO_IMAGE)}. Capture a generated picture instead and "
            "pass it to text_attention"
        )
        raise UnsupportedModelError(message)
    diffusers = require("diffusers", extra="diffusers", feature="read_diffusion")
    given = pipeline.scheduler.config
    steps = given.num_train_timesteps
    if type(pipeline.scheduler).__name__.startswith("FlowMatch"):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(steps)
        step: dict[str, Any] = {"sigmas": [noise]}
    else:
        scheduler = diffusers.DDPMScheduler.from_config(given)
        step = {"timesteps": [min(round(noise * steps), steps - 1)]}
    kind = getattr(diffusers, IMAGE_TO_IMAGE[name])
    wanted = inspect.signature(kind.__init__).parameters
    parts = {"safety_checker": None, "requires_safety_checker": False}
    parts = {**pipeline.components, **parts, "scheduler": scheduler}
    reader = kind(**{name: part for name, part in parts.items() if name in wanted})
    reader.set_progress_bar_config(disable=True)
    return reader, step


def _size(pipeline: Any, picture: "Image", size: int | None) -> tuple[int, int]:
    """Width and height that the denoiser takes, nearest to the asked size."""
    denoiser = getattr(pipeline, "transformer", None)
    deepest = 1 if denoiser else len(pipeline.unet.config.block_out_channels) - 1
    unit = pipeline.vae_scale_factor * 2**deepest
    longer = size or pipeline.default_sample_size * pipeline.vae_scale_factor
    scale = longer / max(picture.size)
    width, height = (max(1, round(side * scale / unit)) * unit for side in picture.size)
    return width, height
