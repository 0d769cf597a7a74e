"""The guider of modular pipelines against the wrapper of ordinary ones."""

from types import SimpleNamespace

import pytest
import torch
from tests.guidance.drawn import BreaksIn, stir
from torch.overrides import _get_current_function_mode

from attnchain.errors import ArgumentError, CaptureError, MissingExtraError
from attnchain.guidance import AttentionGuidance, guide
from attnchain.testing.models import pipelines

STEPS = 3


@pytest.fixture
def pipeline():
    pipeline = pipelines.stable_diffusion_xl()
    stir(pipeline.unet)
    pipeline.scheduler.set_timesteps(STEPS)
    return pipeline


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(5)

    def random(*shape):
        return torch.randn(*shape, generator=draw)

    return SimpleNamespace(
        latents=random(1, 4, 8, 16),
        prompt_embeds=random(1, 5, 32),
        negative_prompt_embeds=random(1, 5, 32),
        add_time_ids=torch.ones(1, 6),
        negative_add_time_ids=torch.ones(1, 6),
        pooled_prompt_embeds=random(1, 16),
        negative_pooled_prompt_embeds=random(1, 16),
    )


def modular(pipeline, guider, inputs):
    """The denoising loop of the modular SDXL pipeline, block by block."""
    from diffusers.modular_pipelines.modular_pipeline import BlockState
    from diffusers.modular_pipelines.stable_diffusion_xl import denoise

    pipeline.scheduler.set_timesteps(STEPS)
    latents = inputs.latents * pipeline.scheduler.init_noise_sigma
    state = BlockState(**vars(inputs) | {"latents": latents})
    state.num_inference_steps = STEPS
    state.timestep_cond = state.cross_attention_kwargs = None
    parts = SimpleNamespace(
        guider=guider, unet=pipeline.unet, scheduler=pipeline.scheduler
    )
    for i, t in enumerate(pipeline.scheduler.timesteps):
        state.scaled_latents = pipeline.scheduler.scale_model_input(state.latents, t)
        _, state = denoise.StableDiffusionXLLoopDenoiser()(parts, state, i, t)
        step = pipeline.scheduler.step(state.noise_pred, t, state.latents)
        state.latents = step.prev_sample
    return state.latents


def wrapped(pipeline, guidance, inputs, strength):
    call = {
        "prompt_embeds": inputs.prompt_embeds,
        "negative_prompt_embeds": inputs.negative_prompt_embeds,
        "pooled_prompt_embeds": inputs.pooled_prompt_embeds,
        "negative_pooled_prompt_embeds": inputs.negative_pooled_prompt_embeds,
    }
    size = {"height": 8, "width": 16, "original_size": (1, 1), "target_size": (1, 1)}
    with guide(pipeline, guidance):
        return pipeline(
            num_inference_steps=STEPS,
            guidance_scale=strength,
            latents=inputs.latents,
            output_type="latent",
            crops_coords_top_left=(1, 1),
            **size,
            **call,
        ).images


@pytest.mark.parametrize("strength", [1.0, 5.0])
def test_guider_and_wrapper_draw_the_same(pipeline, inputs, strength):
    from attnchain.guidance.guider import SelfAttentionGuider

    guidance = AttentionGuidance(scale=2.0, start=0.3, blur_size=5)
    guider = SelfAttentionGuider.of(
        guidance, pipeline.scheduler, guidance_scale=strength
    )
    found = modular(pipeline, guider, inputs)
    expected = wrapped(pipeline, guidance, inputs, strength)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    guider.disable()
    assert (modular(pipeline, guider, inputs) - found).abs().max() > 0.01


def test_runs_are_counted_as_guidance_asks(pipeline):
    from attnchain.guidance.guider import SelfAttentionGuider

    guidance = AttentionGuidance(start=0.5)
    guider = SelfAttentionGuider.of(guidance, pipeline.scheduler, stop=0.8)
    counts = []
    for step in range(10):
        guider.set_state(step, 10, torch.tensor(1))
        counts.append(guider.num_conditions)
    assert counts == [2] * 5 + [3] * 3 + [2] * 2
    guider.disable()
    assert guider.num_conditions == 1


def test_a_saved_guider_comes_back(pipeline, tmp_path):
    from attnchain.guidance.guider import SelfAttentionGuider

    guidance = AttentionGuidance.sag(scale=0.4, block="mid")
    guider = SelfAttentionGuider.of(guidance, pipeline.scheduler, guidance_scale=3.0)
    guider.save_pretrained(tmp_path)
    again = SelfAttentionGuider.from_pretrained(tmp_path)
    assert again.attention == guidance
    assert again.guidance_scale == 3.0
    assert again.new(guidance_scale=2.0).attention == guidance


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_interruption_inside_the_denoiser_leaves_nothing(
    pipeline, inputs, error, call
):
    from attnchain.guidance.guider import SelfAttentionGuider

    guidance = AttentionGuidance(scale=2.0, blur_size=5)
    guider = SelfAttentionGuider.of(guidance, pipeline.scheduler)
    expected = modular(pipeline, guider, inputs)
    guider = SelfAttentionGuider.of(guidance, pipeline.scheduler)
    middle = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    with BreaksIn(middle, error, call), pytest.raises(error):
        modular(pipeline, guider, inputs)
    assert _get_current_function_mode() is None
    for module in pipeline.unet.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
    assert torch.equal(modular(pipeline, guider, inputs), expected)


def test_a_run_that_was_prepared_and_not_made_leaves_nothing(pipeline):
    from attnchain.guidance.guider import SelfAttentionGuider

    guider = SelfAttentionGuider.of(AttentionGuidance(), pipeline.scheduler)
    guider.set_state(0, 10, torch.tensor(1))
    guider.prepare_models(pipeline.unet)
    guider.prepare_models(pipeline.unet)
    assert _get_current_function_mode() is None
    guider.cleanup_models(pipeline.unet)
    assert "forward" not in vars(pipeline.unet)


def test_no_hook_is_left_on_the_denoiser(pipeline, inputs):
    from attnchain.guidance.guider import SelfAttentionGuider

    guider = SelfAttentionGuider.of(AttentionGuidance(), pipeline.scheduler)
    modular(pipeline, guider, inputs)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in pipeline.unet.modules()
    )


def test_a_degraded_run_without_its_source_is_refused(pipeline):
    from attnchain.guidance.guider import SelfAttentionGuider

    guider = SelfAttentionGuider.of(
        AttentionGuidance(), pipeline.scheduler, guidance_scale=1.0
    )
    guider.set_state(0, 10, torch.tensor(1))
    guider._count_prepared = 1
    guider.prepare_models(pipeline.unet)
    with pytest.raises(CaptureError, match="before the run it is made from"):
        pipeline.unet(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 5, 32))
    guider.cleanup_models(pipeline.unet)


@pytest.mark.parametrize(
    "scheduler",
    [
        {},
        "DDIMScheduler",
        {"_class_name": "NoScheduler"},
        {"_class_name": "UNet2DModel"},
        {"_class_name": "DDIMScheduler", "beta_schedule": "steep"},
        {"_class_name": "DDIMScheduler", "beta_start": "low"},
    ],
)
def test_a_scheduler_that_is_none_is_named(scheduler):
    from attnchain.guidance.guider import SelfAttentionGuider

    with pytest.raises(ArgumentError, match="must be the configuration of a diffusers"):
        SelfAttentionGuider(scheduler=scheduler)


def test_unknown_settings_are_named():
    from attnchain.guidance.guider import SelfAttentionGuider

    with pytest.raises(ArgumentError, match="guidance_scale must be a finite number"):
        SelfAttentionGuider(guidance_scale="high")
    with pytest.raises(ArgumentError, match="a description is a dictionary"):
        SelfAttentionGuider(attention="sag")
    with pytest.raises(ArgumentError, match="unknown setting"):
        SelfAttentionGuider(attention={"strength": 1})


def test_without_diffusers_the_extra_is_named(monkeypatch):
    import importlib
    import sys

    monkeypatch.delitem(sys.modules, "attnchain.guidance.guider", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"attnchain\[diffusers\]"):
        importlib.import_module("attnchain.guidance.guider")
