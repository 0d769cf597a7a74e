"""Plain SAG written out by hand, on the pipelines diffusers has no SAG of its own for.

Compared is what reaches the scheduler at the second step; the first is not guided, so
that both runs come there with the same latents.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from tests.guidance.drawn import stir
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import gaussian_blur

from attnchain.capturing import capture
from attnchain.guidance import AttentionGuidance, guide
from attnchain.replacing import replaced
from attnchain.testing.models import pipelines

SCALE, STEPS = 0.75, 3
TEXT = {"prompt": "a cat", "output_type": "latent", "num_inference_steps": STEPS}
CALLS = {
    "stable_diffusion_3": {"height": 8, "width": 16, "max_sequence_length": 8},
    "pixart": {"height": 8, "width": 16, "use_resolution_binning": False},
    "pixart_sigma": {"height": 8, "width": 16, "use_resolution_binning": False},
    "lumina2": {"height": 64, "width": 96, "max_sequence_length": 24},
    "flux": {"height": 16, "width": 24, "max_sequence_length": 8},
}


@dataclass
class Seen:
    """What denoiser and scheduler were given, step by step."""

    calls: list = field(default_factory=list)
    steps: list = field(default_factory=list)


def watched(pipeline, context=None, **call):
    """Runs a pipeline and notes what its denoiser and its scheduler are given."""
    seen, taken = Seen(), pipeline.scheduler.step

    def step(predicted, time, latents, *args, **kwargs):
        seen.steps.append((predicted, time, latents))
        return taken(predicted, time, latents, *args, **kwargs)

    def note(_module, args, kwargs):
        names = ("hidden_states",)[: len(args)]
        seen.calls.append(dict(zip(names, args, strict=True)) | kwargs)

    hook = pipeline.transformer.register_forward_pre_hook(note, with_kwargs=True)
    with replaced(pipeline.scheduler, "step", step), hook, context or nullcontext():
        pipeline(generator=torch.Generator().manual_seed(3), **TEXT, **call)
    return seen


def unpacked(tensor, grid):
    """FLUX's sequence of 2 x 2 patches as a picture."""
    if tensor.ndim == 4:
        return tensor
    batch, _, width = tensor.shape
    parts = tensor.view(batch, grid.rows, grid.columns, width // 4, 2, 2)
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(
        batch, width // 4, 2 * grid.rows, 2 * grid.columns
    )


def packed(picture, like):
    if like.ndim == 4:
        return picture
    batch, channels, height, width = picture.shape
    parts = picture.view(batch, channels, height // 2, 2, width // 2, 2)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, 4 * channels)


def first_half(value):
    if isinstance(value, dict):
        return {name: first_half(one) for name, one in value.items()}
    return value[: len(value) // 2] if torch.is_tensor(value) and value.ndim else value


def marked(transformer, given, block):
    """Patches whose column sum of the mean head is above that of the mean patch."""
    with capture(transformer, name=block) as attention, torch.no_grad():
        out = transformer(**given)[0]
    [record] = attention
    sums = record.probabilities().mean(1).sum(1)[:, record.grid.patches]
    sums = sums.unflatten(1, (record.grid.rows, record.grid.columns))
    return out, sums > sums.mean((1, 2), keepdim=True), record.grid


def degraded(x, e, mask, *, scheduler, number, time):
    """Noisy latents whose clean picture is blurred inside the mask."""
    if hasattr(scheduler, "alphas_cumprod"):
        kept = scheduler.alphas_cumprod[int(time)]
        a, b = kept.sqrt(), (1 - kept).sqrt()
        clean, noise = (x - b * e) / a, e
    else:
        b = scheduler.sigmas[number]
        a = 1 - b
        clean, noise = x - b * e, x + a * e
    inside = interpolate(mask[:, None].float(), x.shape[-2:])
    blurred = gaussian_blur(clean, [3, 3], [1.0, 1.0])
    return a * (blurred * inside + clean * (1 - inside)) + b * noise


def by_hand(pipeline, seen, g, block):
    """The second step's prediction, guided: u + g (c - u) + s (u - d)."""
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    per_step, name = len(seen.calls) // STEPS, "hidden_states"
    _, time, _ = seen.steps[1]
    sides = seen.calls[per_step : 2 * per_step]
    sign = -1 if "Lumina" in type(pipeline).__name__ else 1
    if per_step == 1 and g > 1:
        free = first_half(sides[0])
        conditional = transformer(**sides[0])[0].chunk(2)[1]
    else:
        free = sides[-1]
        conditional = transformer(**sides[0])[0]
    u, mask, grid = marked(transformer, free, block)
    x = unpacked(free[name], grid)
    channels = x.shape[1]

    def prediction(out):
        return sign * unpacked(out, grid)[:, :channels]

    u, c = prediction(u), prediction(conditional)
    low = degraded(x, u, mask, scheduler=scheduler, number=1, time=time)
    d = prediction(transformer(**(free | {name: packed(low, free[name])}))[0])
    assert 0 < float(mask.float().mean()) < 1
    assert float((u - d).abs().max()) > 1e-3
    return packed(u + g * (c - u) + SCALE * (u - d), free[name])


@pytest.mark.parametrize(
    ("name", "g"),
    [*((name, g) for name in CALLS for g in (1.0, 4.0) if (name, g) != ("flux", 4.0))],
)
def test_plain_sag_is_that_written_out_by_hand(name, g):
    pipeline = getattr(pipelines, name)()
    stir(pipeline.transformer)
    call = CALLS[name] | {"guidance_scale": g}
    if name == "lumina2":
        call |= {"cfg_normalization": False, "system_prompt": ""}
    guidance = AttentionGuidance.sag(scale=SCALE, blur_size=3, start=0.34)
    plain = watched(pipeline, **call)
    with torch.no_grad():
        with guide(pipeline, guidance) as guided:
            block = guided.block
        expected = by_hand(pipeline, plain, g, block)
    found = watched(pipeline, guide(pipeline, guidance), **call)
    torch.testing.assert_close(found.steps[1][2], plain.steps[1][2], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.steps[1][0], expected, rtol=1e-4, atol=1e-4)
    assert (found.steps[1][0] - plain.steps[1][0]).abs().max() > 1e-4
