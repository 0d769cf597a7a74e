"""Diffusion pipelines: steps, sides of guidance, words, nothing left behind."""

import pytest
import torch
from tests.capturing import zoo

from attnchain.capturing import TokenGrid, capture, prompt_tokens
from attnchain.errors import ArgumentError, UnsupportedModelError
from attnchain.testing.models import pipelines

PROMPT = "a red cat"
PICTURE = {"height": 8, "width": 16, "output_type": "latent"}
T5 = PICTURE | {"max_sequence_length": 16}
BINNED = {"clean_caption": False, "use_resolution_binning": False}
RUNS = {
    "stable_diffusion": {"prompt": PROMPT, **PICTURE},
    "stable_diffusion_xl": {"prompt": PROMPT, **PICTURE},
    "stable_diffusion_3": {"prompt": PROMPT, **T5},
    "flux": {
        "prompt": PROMPT,
        "negative_prompt": "dog",
        "true_cfg_scale": 3.0,
        **T5,
    },
    "pixart": {"prompt": PROMPT, **T5, **BINNED},
    "dit": {"class_labels": [3], "output_type": "np"},
    "ddpm": {"output_type": "np"},
}
GUIDED = [name for name in RUNS if name != "ddpm"]
PROMPTED = [name for name in GUIDED if name != "dit"]


def run(name, pipeline, **options):
    generator = torch.Generator().manual_seed(0)
    options = RUNS[name] | options
    return pipeline(num_inference_steps=3, generator=generator, **options)


@pytest.mark.parametrize("name", RUNS)
def test_every_step_is_counted(name):
    pipeline = getattr(pipelines, name)()
    with capture(pipeline) as attention:
        run(name, pipeline)
    assert attention.n_steps == 3
    assert {record.site.step for record in attention} == {0, 1, 2}
    per_step = [len(attention.matching(steps=step, name="*")) for step in range(3)]
    assert per_step == [len(attention) // 3] * 3


@pytest.mark.parametrize("name", RUNS)
def test_the_pipeline_is_unchanged(name):
    pipeline = getattr(pipelines, name)()
    plain = run(name, pipeline)[0]
    with capture(pipeline):
        watched = run(name, pipeline)[0]
    assert torch.equal(torch.as_tensor(plain), torch.as_tensor(watched))
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    assert not {"step", "set_timesteps"} & set(vars(pipeline.scheduler))
    assert "cache_context" not in vars(denoiser)
    assert not any(module._forward_hooks for module in denoiser.modules())


@pytest.mark.parametrize("name", PROMPTED)
def test_sides_of_guidance_are_told_apart(name):
    """Captured at the first step, each side equals a run with that prompt alone."""
    pipeline = getattr(pipelines, name)()
    with capture(pipeline, steps=0) as attention:
        run(name, pipeline, negative_prompt="dog")
    for branch, prompt in (("conditional", PROMPT), ("unconditional", "dog")):
        alone = {"prompt": prompt, "negative_prompt": None, "guidance_scale": 0.0}
        if name == "flux":
            alone |= {"true_cfg_scale": 1.0, "guidance_scale": 3.5}
        with capture(pipeline, steps=0) as single:
            run(name, pipeline, **alone)
        sides = attention.matching(branch=branch, name="*")
        assert len(sides) == len(single)
        for side, record in zip(sides, single, strict=True):
            assert side.site.name == record.site.name
            expected = record.probabilities()
            torch.testing.assert_close(
                side.probabilities(), expected, atol=1e-3, rtol=0
            )


def test_sides_of_guidance_by_class_numbers():
    """The unconditional side does not depend on the class, the conditional does."""
    pipeline = pipelines.dit()
    sides = {}
    for branch in ("conditional", "unconditional"):
        for label in (3, 5):
            with capture(pipeline, steps=0, layers=-1, branch=branch) as attention:
                run("dit", pipeline, class_labels=[label])
            [record] = attention
            sides[branch, label] = record.q
    assert not torch.equal(sides["conditional", 3], sides["conditional", 5])
    assert torch.equal(sides["unconditional", 3], sides["unconditional", 5])


def test_a_compiled_denoiser():
    pipeline = pipelines.dit()
    with capture(pipeline) as expected:
        run("dit", pipeline)
    pipeline.transformer.forward = torch.compile(
        pipeline.transformer.forward, backend="eager"
    )
    with capture(pipeline) as attention:
        run("dit", pipeline)
    assert [record.site for record in attention] == [record.site for record in expected]
    assert torch.equal(attention[-1].q, expected[-1].q)


def test_without_guidance_nothing_is_split():
    pipeline = pipelines.stable_diffusion()
    with capture(pipeline, steps=0) as attention:
        run("stable_diffusion", pipeline, guidance_scale=1.0)
    assert {record.site.branch for record in attention} == {None}


@pytest.mark.parametrize("steps", [0, -1, [0, 2], (-2, -1)])
def test_only_chosen_steps_are_kept(steps):
    pipeline = pipelines.dit()
    with capture(pipeline, steps=steps) as attention:
        run("dit", pipeline)
    chosen = {n % 3 for n in ([steps] if isinstance(steps, int) else steps)}
    assert {record.site.step for record in attention} == chosen


def test_the_last_step_is_the_last_that_ran():
    """Picture-to-picture pipelines run only part of the scheduler's schedule."""
    pipeline = pipelines.stable_diffusion()
    scheduler = pipeline.scheduler
    with capture(pipeline, steps=-1, layers=0, kind="self") as attention:
        scheduler.set_timesteps(10)
        for timestep in scheduler.timesteps[7:]:
            latents = torch.zeros(1, 4, 8, 8)
            noise = pipeline.unet(latents, timestep, torch.zeros(1, 12, 16)).sample
            scheduler.step(noise, timestep, latents)
    assert [record.site.step for record in attention] == [2]


def test_a_second_call_starts_again_at_step_zero():
    pipeline = pipelines.ddpm()
    with capture(pipeline, layers=0) as attention:
        run("ddpm", pipeline)
        run("ddpm", pipeline)
    assert [record.site.step for record in attention] == [0, 1, 2, 0, 1, 2]


def test_resolution_is_chosen_at_capture_time():
    pipeline = pipelines.stable_diffusion()
    with capture(pipeline, resolution=(4, 8), kind="self") as attention:
        run("stable_diffusion", pipeline)
    assert {(r.grid.rows, r.grid.columns) for r in attention} == {(4, 8)}


def test_text_encoders_and_decoder_are_not_captured():
    pipeline = pipelines.stable_diffusion()
    with capture(pipeline) as attention:
        run("stable_diffusion", pipeline, output_type="pt")
    assert all(".transformer_blocks." in record.site.name for record in attention)


@pytest.mark.parametrize("name", PROMPTED)
def test_words_are_found_by_the_right_tokenizer(name):
    pipeline = getattr(pipelines, name)()
    with capture(pipeline, steps=0) as attention:
        run(name, pipeline)
    kinds = {record.site.kind: record for record in attention}
    grid = kinds["joint"].grid if "joint" in kinds else kinds["cross"].key_grid
    words = prompt_tokens(pipeline, PROMPT, len(grid.text))
    assert len(words) == len(grid.text)
    pieces = [words.pieces[i].strip() for i in words.find("cat")]
    expected = {
        "stable_diffusion": ["cat"],
        "stable_diffusion_xl": ["cat"],
        "stable_diffusion_3": ["cat", "c", "at"],
    }
    assert pieces == expected.get(name, ["c", "at"])
    assert set(words.find("cat", grid=grid)) <= set(grid.text)


def test_text_positions_without_t5():
    pipeline = pipelines.stable_diffusion_3()
    pipeline.tokenizer_3 = None
    words = prompt_tokens(pipeline, PROMPT, 20)
    assert len(words) == 20
    assert len(words.find("cat")) == 1


def test_an_object_that_is_neither_model_nor_pipeline():
    expected = pytest.raises(UnsupportedModelError, match="module, or a diffusers")
    with expected, capture("dinov2"):
        pass


def test_steps_need_a_pipeline():
    expected = pytest.raises(ArgumentError, match="diffusion pipeline only")
    with expected, capture(torch.nn.Linear(2, 2), steps=0):
        pass


def test_the_pipeline_is_left_alone_after_an_exception():
    pipeline = pipelines.ddpm()

    def stop(*_):
        raise KeyboardInterrupt

    handle = pipeline.unet.conv_out.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt), capture(pipeline):
        run("ddpm", pipeline)
    handle.remove()
    assert "step" not in vars(pipeline.scheduler)
    assert not any(module._forward_hooks for module in pipeline.unet.modules())


def wan_pipeline(**options):
    """Text to video; with two networks, as Wan 2.2 has them."""
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1] * 4,
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    pipeline = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=options.pop("scheduler", scheduler),
        **options,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


VIDEO = {
    "prompt_embeds": zoo.numbers(1, 5, 32),
    "negative_prompt_embeds": zoo.numbers(1, 5, 32, seed=2),
    "height": 16,
    "width": 32,
    "num_frames": 5,
    "num_inference_steps": 6,
    "output_type": "latent",
}


def test_a_video_pipeline_has_frames_and_sides():
    pipeline = wan_pipeline(transformer=zoo.wan())
    plain = pipeline(**VIDEO, generator=torch.Generator().manual_seed(0)).frames
    with capture(pipeline) as attention:
        inside = pipeline(**VIDEO, generator=torch.Generator().manual_seed(0)).frames
    assert torch.equal(plain, inside)
    assert attention.n_steps == 6
    assert {r.site.branch for r in attention} == {"conditional", "unconditional"}
    assert attention.grid == TokenGrid(1, 2, frames=2)
    cross = attention.matching(kind="cross")
    assert {str(r.key_grid) for r in cross} == {"5 text"}


def test_two_denoisers_number_their_layers_alike():
    networks = {"transformer": zoo.wan(), "transformer_2": zoo.wan()}
    pipeline = wan_pipeline(boundary_ratio=0.875, **networks)
    with capture(pipeline) as attention:
        pipeline(**VIDEO)
    assert attention.n_steps == 6
    assert attention.n_layers == {"self": 2, "cross": 2}
    ran = {r.site.name.partition(".")[0]: set() for r in attention}
    for record in attention:
        ran[record.site.name.partition(".")[0]].add(record.site.step)
    assert set.union(*ran.values()) == set(range(6))
    assert not set.intersection(*ran.values())
    assert set(ran) == set(networks)
    last = attention.select(layers=-1, steps=-1, branch="conditional")
    assert last.n_states == 4


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_schedulers_that_call_the_denoiser_twice_for_a_step(name):
    import diffusers

    pipeline = pipelines.stable_diffusion()
    kind = getattr(diffusers, name)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    with capture(pipeline, layers=0, kind="self") as attention:
        run("stable_diffusion", pipeline)
    assert attention.n_steps == 3
    steps = [r.site.step for r in attention if r.site.branch == "conditional"]
    assert steps == [0, 0, 1, 1, 2]
