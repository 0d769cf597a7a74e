"""The guidance object: noise levels, the blur, prepare and combine."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from scipy.ndimage import correlate1d

from attnchain.capturing import TokenGrid
from attnchain.errors import ArgumentError, ShapeError, UnsupportedModelError
from attnchain.guidance import AttentionGuidance, NoiseLevel, Salience
from attnchain.guidance.degrading import blur_inside, gaussian_blur
from attnchain.operators import DenseTransition


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        ("epsilon", lambda x, e: e),
        ("sample", lambda x, e: x),
        ("v_prediction", lambda x, e: 0.6 * e - 0.8 * x),
    ],
)
def test_a_perfect_prediction_gives_back_picture_and_noise(prediction, target):
    x, e = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    level = NoiseLevel(0.6, 0.8, prediction)
    latents = 0.6 * x + 0.8 * e
    clean, noise = level.split(latents, target(x, e))
    torch.testing.assert_close(clean, x)
    torch.testing.assert_close(noise, e)
    torch.testing.assert_close(level.join(clean, noise), latents)


@pytest.mark.parametrize("noise", [1.0, 0.3])
def test_a_perfect_flow_gives_back_picture_and_noise(noise):
    x, e = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    level = NoiseLevel(1 - noise, noise, "flow_prediction")
    clean, found = level.split((1 - noise) * x + noise * e, e - x)
    torch.testing.assert_close(clean, x)
    torch.testing.assert_close(found, e)


def test_levels_are_those_of_diffusers_schedulers():
    import diffusers

    x, e = torch.randn(2, 1, 4, 8, 8)
    for kind in ("DDIMScheduler", "EulerDiscreteScheduler"):
        scheduler = getattr(diffusers, kind)(beta_schedule="scaled_linear")
        scheduler.set_timesteps(7)
        for t in scheduler.timesteps:
            noisy = scheduler.add_noise(x, e, t[None])
            if kind == "DDIMScheduler":
                seen = noisy
            else:
                seen = scheduler.scale_model_input(noisy, t)
                scheduler._step_index += 1
            mixed = NoiseLevel.of(scheduler, float(t)).join(x, e)
            torch.testing.assert_close(mixed, seen, rtol=1e-4, atol=1e-4)


def test_a_last_step_without_signal_has_a_level():
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    level = NoiseLevel.of(scheduler, 999.0)
    assert (level.signal, level.noise) == (0.0, 1.0)
    before = NoiseLevel.of(scheduler, 998.0)
    between = NoiseLevel.of(scheduler, 998.5)
    assert 0 < between.signal < before.signal
    assert between.signal**2 + between.noise**2 == pytest.approx(1)
    x, e = torch.randn(2, 1, 4, 8, 8)
    mixed = scheduler.add_noise(x, e, torch.tensor([998]))
    torch.testing.assert_close(before.join(x, e), mixed)


def test_flow_levels_are_those_of_the_scheduler():
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        level = NoiseLevel.of(scheduler, float(t))
        assert level.noise == pytest.approx(float(sigma), abs=1e-6)
        assert level.prediction == "flow_prediction"


def test_a_scheduler_without_levels_is_refused():
    import diffusers

    with pytest.raises(UnsupportedModelError, match="EDMEulerScheduler"):
        NoiseLevel.of(diffusers.EDMEulerScheduler(), 1.0)
    odd = SimpleNamespace(
        config=SimpleNamespace(prediction_type="other"), alphas_cumprod=torch.ones(3)
    )
    with pytest.raises(UnsupportedModelError, match="'other'"):
        NoiseLevel.of(odd, 1.0)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ((0.0, 1.0, "epsilon"), "cannot be guided at signal 0"),
        ((1.0, 0.0, "sample"), "noise 0"),
        ((-0.1, 1.0, "v_prediction"), "signal -0.1"),
        ((0.6, 0.8, "guess"), "prediction must be one of"),
        ((math.nan, 0.8, "v_prediction"), "must be finite"),
        ((0.6, math.inf, "v_prediction"), "must be finite"),
    ],
)
def test_levels_that_say_nothing_are_refused(level, words):
    with pytest.raises(ArgumentError, match=words):
        NoiseLevel(*level)


def test_the_blur_is_scipys_mirrored_gaussian():
    pictures = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    offsets = torch.arange(-3, 4, dtype=torch.float64)
    bell = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    bell = (bell / bell.sum()).numpy()
    expected = correlate1d(pictures.numpy(), bell, axis=2, mode="mirror")
    expected = correlate1d(expected, bell, axis=3, mode="mirror")
    found = gaussian_blur(pictures, size=7, sigma=1.5)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_only_masked_pixels_are_blurred():
    pictures = torch.randn(1, 2, 8, 8)
    mask = torch.tensor([[[True, False], [False, False]]])
    found = blur_inside(pictures, mask, size=3, sigma=1.0)
    blurred = gaussian_blur(pictures, size=3, sigma=1.0)
    torch.testing.assert_close(found[..., :4, :4], blurred[..., :4, :4])
    assert torch.equal(found[..., 4:, :], pictures[..., 4:, :])
    assert torch.equal(found[..., :4, 4:], pictures[..., :4, 4:])


def test_a_picture_smaller_than_the_blur_is_refused():
    with pytest.raises(ShapeError, match="more than 4 pixels"):
        gaussian_blur(torch.zeros(1, 1, 4, 8), size=9, sigma=1.0)


def test_prepare_blurs_the_clean_picture_under_the_same_noise():
    x, e = torch.randn(2, 1, 2, 8, 8, dtype=torch.float64)
    guidance = AttentionGuidance(blur_size=5, blur_sigma=2.0)
    everywhere = torch.ones(1, 2, 2, dtype=torch.bool)
    level = NoiseLevel(0.6, 0.8, "epsilon")
    found = guidance.prepare(0.6 * x + 0.8 * e, e, level=level, mask=everywhere)
    blurred = gaussian_blur(x, size=5, sigma=2.0)
    torch.testing.assert_close(found, 0.6 * blurred + 0.8 * e)


def test_combine_steers_away():
    guidance = AttentionGuidance(scale=2.0)
    found = guidance.combine(torch.tensor([1.0]), torch.tensor([0.5]))
    assert found.item() == 2.0


def test_text_tokens_take_part_and_are_dropped():
    rows = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.5, 0.3, 0.2]])
    attention = DenseTransition(rows[None, None])
    guidance = AttentionGuidance.sag()
    # Column sums are 1.6, 0.9 and 0.5; 0.9 is above the mean of the patches alone.
    grid = TokenGrid(1, 2, prefix=1, text=range(1))
    assert guidance.mask(attention, grid).tolist() == [[[True, False]]]
    assert guidance.mask(attention, TokenGrid(1, 3)).tolist() == [
        [[True, False, False]]
    ]


def test_steps_outside_start_and_stop_are_plain():
    guidance = AttentionGuidance(start=0.2, stop=0.5)
    active = [step for step in range(10) if guidance.is_active(step, 10)]
    assert active == [2, 3, 4]
    assert not AttentionGuidance(scale=0.0).is_active(3, 10)


def test_a_description_is_plain_and_complete():
    guidance = AttentionGuidance(Salience("bounces", bounces=3), scale=0.3, block="b")
    plain = json.loads(json.dumps(guidance.describe()))
    assert AttentionGuidance.from_description(plain) == guidance
    with pytest.raises(ArgumentError, match="unknown setting"):
        AttentionGuidance.from_description({"strength": 1.0})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 0.6, "stop": 0.5}, "0 <= start <= stop <= 1"),
        ({"stop": 1.1}, "start and stop must be fractions"),
        ({"blur_size": 4}, "blur_size must be odd"),
        ({"blur_size": 9.0}, r"blur_size must be a whole number >= 1, but is 9\.0"),
        ({"salience": "token_rank"}, "salience must be a Salience"),
        ({"scale": "1"}, "scale must be a finite number, but is '1'"),
        ({"scale": math.nan}, "scale must be a finite number, but is nan"),
        ({"threshold": math.nan}, "threshold must be a finite number"),
        ({"start": "a"}, "start must be a finite number"),
        ({"block": 3}, "block must be a module's name"),
        ({"blur_sigma": 0.0}, "blur_sigma above 0"),
    ],
)
def test_bad_settings_are_named(options, words):
    with pytest.raises(ArgumentError, match=words):
        AttentionGuidance(**options)
