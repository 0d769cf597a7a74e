"""Training: it orders tokens, resumes, repeats, and says what is wrong."""

import pytest
import torch

from attnchain.errors import ArgumentError, ConvergenceError, ShapeError
from attnchain.nested import (
    NestedConfig,
    NestedTokens,
    TrainingSettings,
    explained_variance,
    prefix_losses,
    train,
)

SMALL = NestedConfig(
    size=6,
    patch=3,
    tokens=4,
    channels=1,
    width=16,
    depth=1,
    heads=2,
    hidden=32,
    layers=1,
)
SCALES = torch.tensor([0.9, 0.6, 0.4, 0.25])


def bars(count, seed):
    """Four fixed patterns with weights of falling size: four numbers a picture."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.zeros(4, 1, 6, 6)
    for i, columns in enumerate((slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 6))):
        patterns[i, :, :, columns] = 1
    weights = SCALES * (2 * torch.rand(count, 4, generator=generator) - 1)
    return torch.einsum("bp,pcij->bcij", weights, patterns)


def fresh():
    torch.manual_seed(0)
    return NestedTokens(SMALL)


@pytest.fixture(scope="module")
def learned():
    model = fresh()
    settings = TrainingSettings(steps=600, batch_size=64, learning_rate=1e-2)
    return model, train(model, bars(2000, 0), settings)


def test_longer_prefixes_carry_more(learned):
    model, history = learned
    assert len(history) == 6
    assert history[-1] < 0.5 * history[0]
    losses = prefix_losses(model, bars(500, 1))
    assert bool((losses[:4].diff() < 0).all()), losses
    assert float(losses[-1]) < 0.25 * float(losses[0])
    found = explained_variance(losses)
    assert float(found[1]) > 0.4


def test_drawn_pictures_come_from_the_data(learned):
    model, _ = learned
    test = bars(300, 1)
    tokens = model.encode(test)
    errors = [
        float((model.decode(tokens[:, :k]) - test).square().mean()) for k in (0, 4)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_losses_are_paired_by_their_seed(learned):
    model, _ = learned
    first, again, other = (prefix_losses(model, bars(50, 1), seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeds_repeat():
    settings = TrainingSettings(steps=5, batch_size=8, seed=3)
    models = [fresh() for _ in range(2)]
    histories = [train(model, bars(40, 0), settings) for model in models]
    assert histories[0] == histories[1]
    assert torch.equal(*(model.null for model in models))


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    settings = TrainingSettings(steps=230, batch_size=8)
    whole, killed, resumed = fresh(), fresh(), fresh()
    history = train(whole, bars(40, 0), settings)
    file, calls = tmp_path / "state.pt", []

    def stop(module, inputs, output):
        calls.append(1)
        if len(calls) == 150:
            raise KeyboardInterrupt

    killed.encoder.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        train(killed, bars(40, 0), settings, checkpoint=file)
    resumed.encoder.register_forward_hook(lambda m, x, y: calls.append(1))
    assert train(resumed, bars(40, 0), settings, checkpoint=file) == history
    assert len(calls) == 150 + 130
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name])
    with pytest.raises(ArgumentError, match="other settings"):
        train(fresh(), bars(40, 0), TrainingSettings(steps=5), checkpoint=file)


def test_progress_is_shown(capsys):
    train(fresh(), bars(9, 0), TrainingSettings(steps=3, batch_size=4), progress=True)
    assert "learning" in capsys.readouterr().out


def test_what_is_learned_depends_on_the_mode():
    """Plain keeps all, regression sees no picture: losses of the first step differ."""
    losses = {
        (nested, flow): train(
            fresh(),
            bars(40, 0),
            TrainingSettings(steps=1, nested=nested, flow=flow, drop=0.0),
        )[0]
        for nested in (True, False)
        for flow in (True, False)
    }
    assert len(set(losses.values())) == 4


def test_a_loss_that_explodes_is_an_error():
    settings = TrainingSettings(steps=60, batch_size=8, learning_rate=1e38)
    with pytest.raises(ConvergenceError, match="learning_rate below"):
        train(fresh(), bars(40, 0), settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1.5},
        {"learning_rate": float("nan")},
        {"drop": 2.0},
        {"seed": -1},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("call", [train, prefix_losses])
def test_pictures_are_checked_first(call):
    with pytest.raises(ShapeError, match="pictures"):
        call(fresh(), torch.zeros(3, 1, 5, 6))
    with pytest.raises(ArgumentError, match="no pictures"):
        call(fresh(), torch.zeros(0, 1, 6, 6))
    with pytest.raises(ArgumentError, match="finite"):
        call(fresh(), torch.full((2, 1, 6, 6), torch.nan))
