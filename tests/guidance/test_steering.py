"""Guidance around pipelines: diffusers' own SAG, and every family of denoisers."""

from functools import partial

import pytest
import torch
from PIL import Image
from tests.guidance.drawn import BreaksIn, stir
from torch.overrides import _get_current_function_mode

from attnchain.errors import ArgumentError, SiteNotFoundError, UnsupportedModelError
from attnchain.guidance import AttentionGuidance, Salience, guide
from attnchain.guidance.degrading import gaussian_blur
from attnchain.guidance.family import Run
from attnchain.testing.models import diffusion, pipelines

UNBINNED = {"use_resolution_binning": False}


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def latents(pipeline, prompt=("a cat", "a dog"), **options):
    call = {"num_inference_steps": 4, "output_type": "latent"} | options
    return pipeline(list(prompt), generator=seeded(), **call).images


@pytest.mark.parametrize("strength", [1.0, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_plain_sag_is_diffusers_own(stable_diffusion, strength, prediction):
    from diffusers import StableDiffusionSAGPipeline

    ours = stable_diffusion
    ours.scheduler.register_to_config(prediction_type=prediction)
    theirs = StableDiffusionSAGPipeline(**ours.components)
    theirs.set_progress_bar_config(disable=True)
    call = {"guidance_scale": strength, "num_inference_steps": 6}
    expected = latents(theirs, sag_scale=0.75, **call)
    with guide(ours, AttentionGuidance.sag(scale=0.75)) as guided:
        found = latents(ours, **call)
    assert guided.runs == {"guided": 6}
    assert 0 < sum(guided.masked) < 6
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found - latents(ours, **call)).abs().max() > 0.01


def test_the_pipeline_is_as_before_afterwards(stable_diffusion):
    before = latents(stable_diffusion)
    with guide(stable_diffusion):
        assert not torch.equal(latents(stable_diffusion), before)
    assert torch.equal(latents(stable_diffusion), before)
    assert "forward" not in vars(stable_diffusion.unet)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in stable_diffusion.unet.modules()
    )


def test_an_error_inside_leaves_nothing_behind(stable_diffusion):
    before = latents(stable_diffusion)
    with pytest.raises(KeyError), guide(stable_diffusion):
        raise KeyError
    assert torch.equal(latents(stable_diffusion), before)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2])
def test_an_interruption_inside_the_denoiser_leaves_nothing(
    stable_diffusion, error, call
):
    before = latents(stable_diffusion)
    unet = stable_diffusion.unet
    middle = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    with BreaksIn(middle, error, call):
        with pytest.raises(error), guide(stable_diffusion):
            latents(stable_diffusion)
        assert _get_current_function_mode() is None
        assert "forward" not in vars(unet)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert torch.equal(latents(stable_diffusion), before)


def test_no_signal_at_all_at_the_first_step_is_steered(stable_diffusion):
    from diffusers import DDIMScheduler

    stable_diffusion.scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    plain = latents(stable_diffusion)
    with guide(stable_diffusion) as guided:
        found = latents(stable_diffusion)
    assert guided.runs == {"guided": 4}
    assert found.isfinite().all()
    assert (found - plain).abs().max() > 1e-4


def test_scale_zero_and_steps_outside_change_nothing(stable_diffusion):
    before = latents(stable_diffusion)
    with guide(stable_diffusion, AttentionGuidance(scale=0.0)) as guided:
        assert torch.equal(latents(stable_diffusion), before)
    assert guided.runs == {"plain": 4}
    with guide(stable_diffusion, AttentionGuidance(start=0.5)) as guided:
        latents(stable_diffusion)
    assert guided.runs == {"plain": 2, "guided": 2}


def test_salience_changes_the_pictures(stable_diffusion):
    found = []
    for salience in (
        Salience("column_sum"),
        Salience("token_rank"),
        Salience("token_rank", direction="outgoing"),
        Salience("bounces"),
        Salience("column_sum", heads="lambda2"),
    ):
        with guide(stable_diffusion, AttentionGuidance(salience, scale=2.0)):
            found.append(latents(stable_diffusion, height=16, width=16))
    for i, one in enumerate(found):
        for other in found[:i]:
            assert not torch.equal(one, other)


def test_another_block_can_be_read(stable_diffusion):
    block = "up_blocks.0.attentions.0.transformer_blocks.0.attn1"
    with guide(stable_diffusion, AttentionGuidance(block=block)) as guided:
        latents(stable_diffusion)
    assert guided.block == block
    with (
        pytest.raises(SiteNotFoundError, match=r"named 'nowhere'.*mid_block"),
        guide(stable_diffusion, AttentionGuidance(block="nowhere")),
    ):
        pass


def test_pictures_need_not_be_square(stable_diffusion):
    with guide(stable_diffusion) as guided:
        found = latents(stable_diffusion, height=8, width=16)
    assert guided.runs["guided"] == 4
    assert found.isfinite().all()


def test_sizes_may_change_inside_the_block(stable_diffusion):
    flat, tall = {"height": 8, "width": 16}, {"height": 16, "width": 8}
    guidance = AttentionGuidance(scale=2.0, blur_size=5)
    with guide(stable_diffusion, guidance):
        latents(stable_diffusion, **flat)
        found = latents(stable_diffusion, **tall)
    with guide(stable_diffusion, guidance):
        expected = latents(stable_diffusion, **tall)
    assert torch.equal(found, expected)


def test_half_precision_stays_half_precision(stable_diffusion):
    half = stable_diffusion.to(torch.bfloat16)
    with guide(half) as guided:
        found = latents(half)
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()
    assert guided.runs["guided"] == 4


def single(name):
    """A pipeline, its call, and the name under which its guidance scale goes."""
    pipeline = getattr(pipelines, name)()
    stir(getattr(pipeline, "unet", None) or pipeline.transformer)
    return pipeline


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("ddpm", {"batch_size": 2, "output_type": "np"}),
        ("dit", {"class_labels": [1, 2], "output_type": "np"}),
        ("stable_diffusion_xl", {"prompt": "a cat", "output_type": "latent"}),
        ("stable_diffusion_3", {"prompt": "a cat", "output_type": "latent"}),
        ("pixart", {"prompt": "a cat", "output_type": "latent"} | UNBINNED),
        ("flux", {"prompt": "a cat", "output_type": "latent", "height": 16}),
    ],
)
def test_every_family_is_steered(name, call):
    pipeline = single(name)
    call = {"num_inference_steps": 3, **call}
    if name == "flux":
        call["width"] = 24
    guidance = AttentionGuidance(blur_size=3)

    def run():
        return torch.as_tensor(pipeline(generator=seeded(), **call).images)

    plain = run()
    with guide(pipeline, guidance) as guided:
        found = run()
    assert guided.runs["guided"] == 3
    assert found.isfinite().all()
    assert (found - plain).abs().max() > 1e-4


def by_hand(model, scheduler, arguments, guidance, mask):
    """One steered prediction, written out for a network that predicts noise."""
    x, t = arguments["sample"], arguments["timestep"]
    a = scheduler.alphas_cumprod[int(t)]
    first = model(**arguments).sample
    clean = (x - (1 - a).sqrt() * first) / a.sqrt()
    from torchvision.transforms.v2.functional import gaussian_blur

    blurred = gaussian_blur(clean, [3, 3], [1.0, 1.0])
    inside = torch.nn.functional.interpolate(mask[:, None].float(), x.shape[-2:])
    degraded = blurred * inside + clean * (1 - inside)
    again = a.sqrt() * degraded + (1 - a).sqrt() * first
    second = model(**(arguments | {"sample": again})).sample
    return first + guidance.scale * (first - second)


def test_a_bare_denoiser_is_steered_by_its_scheduler():
    tiny = diffusion.ddpm_unet()
    stir(tiny.model)
    scheduler = diffusion.build("DDPMScheduler")
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[3]
    arguments = {"sample": tiny.args[0], "timestep": t}
    guidance = AttentionGuidance(threshold=-1.0, scale=1.5, blur_size=3)
    everywhere = torch.ones(2, 1, 1)
    with torch.no_grad():
        expected = by_hand(tiny.model, scheduler, arguments, guidance, everywhere)
        with guide(tiny.model, guidance, scheduler=scheduler):
            (found,) = tiny.model(*arguments.values(), return_dict=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_velocity_is_steered_along_its_straight_path():
    tiny = diffusion.sd3_transformer()
    stir(tiny.model)
    scheduler = diffusion.build("FlowMatchEulerDiscreteScheduler")
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[2]
    x, text, pooled, _ = tiny.args
    b = float(t) / 1000
    guidance = AttentionGuidance(threshold=-1.0, scale=1.5, blur_size=3)

    def run(latents):
        return tiny.model(latents, text, pooled, t.expand(2)).sample

    with torch.no_grad():
        first = run(x)
        blurred = gaussian_blur(x - b * first, size=3, sigma=1.0)
        second = run((1 - b) * blurred + b * (x + (1 - b) * first))
        with guide(tiny.model, guidance, scheduler=scheduler):
            found = run(x)
    torch.testing.assert_close(
        found, first + 1.5 * (first - second), rtol=1e-4, atol=1e-4
    )


def test_learned_variances_are_left_alone():
    tiny = diffusion.dit_transformer()
    stir(tiny.model)
    scheduler = diffusion.build("DDIMScheduler")
    scheduler.set_timesteps(10)
    x, _, classes = tiny.args
    t = scheduler.timesteps[4].expand(2)
    with torch.no_grad():
        plain = tiny.model(x, t, classes).sample
        with guide(tiny.model, AttentionGuidance(blur_size=3), scheduler=scheduler):
            found = tiny.model(x, t, classes).sample
    assert torch.equal(found[:, 4:], plain[:, 4:])
    assert (found[:, :4] - plain[:, :4]).abs().max() > 1e-4


def test_both_halves_of_a_batch_are_shifted_alike():
    pipeline = single("stable_diffusion")
    seen = []

    def note(module, args, kwargs, output):
        seen.append((len(args[0] if args else kwargs["sample"]), output[0]))

    with pipeline.unet.register_forward_hook(note, with_kwargs=True):
        latents(pipeline, num_inference_steps=1)
        with guide(pipeline, AttentionGuidance(block=None)):
            latents(pipeline, num_inference_steps=1)
    # Plain run of both halves; then both halves, the degraded half, and the outcome.
    assert [rows for rows, _ in seen] == [4, 4, 2, 4]
    shift = seen[-1][1] - seen[0][1]
    torch.testing.assert_close(shift[:2], shift[2:])
    expected = 0.75 * (seen[0][1][:2] - seen[2][1])
    torch.testing.assert_close(shift[:2], expected, rtol=1e-4, atol=1e-4)


def test_packed_latents_are_unpacked_like_diffusers_does():
    from diffusers import FluxPipeline

    picture = torch.randn(2, 3, 4, 6)
    packed = FluxPipeline._pack_latents(picture, 2, 3, 4, 6)
    places = FluxPipeline._prepare_latent_image_ids(1, 2, 3, "cpu", torch.float32)
    model = diffusion.flux_transformer().model
    run = Run(model, {"hidden_states": packed, "img_ids": places, "timestep": 1.0})
    assert torch.equal(run.latents, picture)
    assert torch.equal(run.to_model(picture), packed)
    assert run.size == (4, 6)


def test_true_guidance_of_flux_is_refused():
    pipeline = single("flux")
    call = {"height": 16, "width": 16, "true_cfg_scale": 2.0, "negative_prompt": "dog"}
    with (
        pytest.raises(UnsupportedModelError, match="true_cfg_scale=1"),
        guide(pipeline, AttentionGuidance(blur_size=3)),
    ):
        pipeline("a cat", num_inference_steps=2, output_type="latent", **call)


def test_skip_layer_guidance_is_refused():
    pipeline = single("stable_diffusion_3")
    with (
        pytest.raises(UnsupportedModelError, match="skip_guidance_layers=None"),
        guide(pipeline, AttentionGuidance(blur_size=3)),
    ):
        pipeline(
            "a cat",
            num_inference_steps=4,
            output_type="latent",
            skip_guidance_layers=[0],
            skip_layer_guidance_stop=1.0,
        )


@pytest.mark.parametrize("strength", [1.0, 5.0])
@pytest.mark.parametrize("prompts", [1, 2])
def test_perturbed_attention_beside_it_is_refused(stable_diffusion, strength, prompts):
    from diffusers import StableDiffusionPAGPipeline

    pipeline = StableDiffusionPAGPipeline(
        **stable_diffusion.components, pag_applied_layers=["mid"]
    )
    pipeline.set_progress_bar_config(disable=True)
    with (
        pytest.raises(UnsupportedModelError, match="pag_scale=0"),
        guide(pipeline),
    ):
        latents(pipeline, prompt=["a cat"] * prompts, guidance_scale=strength)


def test_a_class_with_the_same_seed_twice_is_no_guidance():
    pipeline = single("dit")
    call = {"num_inference_steps": 2, "output_type": "np"}
    guidance = AttentionGuidance(blur_size=3)

    def drawn(classes):
        twice = [seeded() for _ in classes]
        with guide(pipeline, guidance):
            return pipeline(
                class_labels=classes, generator=twice, guidance_scale=1.0, **call
            ).images

    both, (first,), (second,) = drawn([1, 2]), drawn([1]), drawn([2])
    assert abs(first - second).max() > 1e-3
    assert abs(both[0] - first).max() < 1e-5
    assert abs(both[1] - second).max() < 1e-5


def test_a_picture_can_be_the_start(stable_diffusion):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline(
        **stable_diffusion.components, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs["encoder_hidden_states"])

    call = {"image": Image.new("RGB", (16, 16), "red"), "strength": 0.5}
    plain = latents(pipeline, **call)
    with (
        guide(pipeline) as guided,
        pipeline.unet.register_forward_pre_hook(note, with_kwargs=True),
    ):
        found = latents(pipeline, **call)
    assert guided.runs == {"guided": 2}
    assert (found - plain).abs().max() > 1e-4
    empty = pipeline.encode_prompt([""] * 2, "cpu", 1, False)[0]
    # The outer call, both halves, and the degraded half without a prompt.
    assert [len(text) for text in seen] == [4, 4, 2] * 2
    assert torch.equal(seen[2], empty)


def controlled(components):
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    control = ControlNetModel.from_unet(
        components["unet"], conditioning_embedding_out_channels=(4,)
    )
    pipeline = StableDiffusionControlNetPipeline(
        **components, controlnet=control, requires_safety_checker=False
    )
    return pipeline, {"image": Image.new("RGB", (8, 8), "red")}


def inpainting(components):
    from diffusers import StableDiffusionInpaintPipeline

    pipeline = StableDiffusionInpaintPipeline(
        **components, requires_safety_checker=False
    )
    call = {"image": Image.new("RGB", (8, 8), "red"), "strength": 1.0}
    return pipeline, call | {"mask_image": Image.new("L", (8, 8), 255)}


@pytest.mark.parametrize("make", [controlled, inpainting])
def test_other_conditions_are_steered_without_classifier_free_guidance(
    stable_diffusion, make
):
    pipeline, call = make(stable_diffusion.components)
    pipeline.set_progress_bar_config(disable=True)
    call |= {"height": 8, "width": 8}
    plain = latents(pipeline, **call, guidance_scale=1.0)
    with guide(pipeline, AttentionGuidance(blur_size=5)) as guided:
        found = latents(pipeline, **call, guidance_scale=1.0)
        with pytest.raises(UnsupportedModelError, match=r"guidance_scale=1"):
            latents(pipeline, **call, guidance_scale=5.0)
    assert guided.runs["guided"] >= 4
    assert (found - plain).abs().max() > 1e-4


def test_compiled_and_patched_denoisers_are_steered_alike(stable_diffusion):
    with guide(stable_diffusion):
        expected = latents(stable_diffusion)
    unet = stable_diffusion.unet
    plain = unet.forward
    unet.forward = partial(plain)
    with guide(stable_diffusion):
        assert torch.equal(latents(stable_diffusion), expected)
    del unet.forward
    stable_diffusion.unet = torch.compile(unet, backend="eager")
    block = "mid_block.attentions.0.transformer_blocks.0.attn1"
    with guide(stable_diffusion, AttentionGuidance(block=block)) as guided:
        found = latents(stable_diffusion)
    assert guided.runs["guided"] == 4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.compiler.reset()


def test_a_denoiser_compiled_in_place_is_refused(stable_diffusion):
    stable_diffusion.unet.compile(backend="eager")
    with (
        pytest.raises(UnsupportedModelError, match=r"torch\.compile\(pipeline\.unet\)"),
        guide(stable_diffusion),
    ):
        pass


def test_a_guided_pipeline_is_not_guided_again(stable_diffusion):
    with (
        guide(stable_diffusion),
        pytest.raises(UnsupportedModelError, match="guided already"),
        guide(stable_diffusion),
    ):
        pass


def test_a_denoiser_that_hides_its_arguments_is_named(stable_diffusion):
    class Hidden(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    hidden = Hidden(stable_diffusion.unet)
    scheduler = stable_diffusion.scheduler
    scheduler.set_timesteps(3)
    with (
        pytest.raises(UnsupportedModelError, match="Hidden was called with args"),
        guide(hidden, scheduler=scheduler),
    ):
        hidden(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 5, 16))


@pytest.mark.parametrize("wrong", ["sag", Salience(), 0])
def test_guidance_of_another_type_is_named(stable_diffusion, wrong):
    with (
        pytest.raises(ArgumentError, match="must be an AttentionGuidance"),
        guide(stable_diffusion, wrong),
    ):
        pass


def test_an_unknown_order_of_guidance_is_refused(stable_diffusion):
    class Other:
        unet = stable_diffusion.unet
        scheduler = stable_diffusion.scheduler
        do_classifier_free_guidance = True

    Other.scheduler.set_timesteps(3)
    both = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1)
    text = torch.randn(2, 5, 16)
    with (
        pytest.raises(UnsupportedModelError, match=r"Other stacks.*guidance_scale=1"),
        guide(Other()),
    ):
        Other.unet(both, Other.scheduler.timesteps[0], text)


def test_what_cannot_be_steered_is_named():
    tiny = diffusion.sd_unet(in_channels=9)
    scheduler = diffusion.build("DDIMScheduler")
    scheduler.set_timesteps(3)
    with (
        pytest.raises(UnsupportedModelError, match="takes 9 channels"),
        guide(tiny.model, scheduler=scheduler),
    ):
        tiny.model(torch.randn(1, 9, 8, 8), 1, torch.randn(1, 5, 12))
    with (
        pytest.raises(UnsupportedModelError, match="needs its scheduler"),
        guide(tiny.model),
    ):
        pass
    plain = torch.nn.Linear(2, 2)
    with (
        pytest.raises(SiteNotFoundError, match="no self-attention"),
        guide(plain, scheduler=scheduler),
    ):
        pass
