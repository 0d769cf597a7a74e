"""Learning from noisy labels, on data whose noise is known."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attnchain.errors import (
    ArgumentError,
    AssumptionWarning,
    ConvergenceError,
    NotStochasticError,
    ShapeError,
)
from attnchain.markov import metastable_sets, second_eigenvalue, stationary
from attnchain.noise import VolumeMinimized, transition_error

FLOW = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.2, 0.0, 0.8]])
FAST = {"epochs": 6, "learning_rate": 0.1, "transition_rate": 0.02, "seed": 1}


def clusters(spread, count=3000, seed=0):
    """Points around three corners, their classes, and labels flipped by FLOW."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (count,), generator=generator)
    corners = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    noise = spread * torch.randn(count, 2, generator=generator)
    labels = torch.multinomial(FLOW[classes], 1, generator=generator)[:, 0]
    return corners[classes] + noise, classes, labels


@pytest.fixture(scope="module")
def learned():
    torch.set_num_threads(1)
    features, classes, labels = clusters(0.5)
    return VolumeMinimized(3, **FAST).fit(features, labels), features, classes, labels


def test_the_transition_and_the_clean_classes_are_found(learned):
    model, features, classes, labels = learned
    assert transition_error(model.transition_.to_dense(), FLOW) < 0.15
    assert float((model.predict(features) == classes).float().mean()) > 0.97
    assert float((labels == classes).float().mean()) < 0.75
    assert model.scattering_ == pytest.approx(1, abs=0.05)
    rows = model.predict_proba(features)
    assert torch.allclose(rows.sum(-1), torch.ones(len(rows)))


def test_the_noise_is_a_chain_like_any_other(learned):
    chain = learned[0].transition_
    assert float(stationary(chain).distribution.sum()) == pytest.approx(1)
    assert 0 < float(second_eigenvalue(chain).modulus) < 1
    assert metastable_sets(chain, 3).memberships.shape == (3, 3)


@pytest.mark.filterwarnings("ignore::attnchain.errors.AssumptionWarning")
def test_seeds_repeat_and_the_given_classifier_is_not_touched():
    features, _, labels = clusters(0.5, 400)
    given = nn.Linear(2, 3)
    before = given.weight.detach().clone()
    first, second = (
        VolumeMinimized(3, given, epochs=2, seed=5).fit(features, labels)
        for _ in range(2)
    )
    assert torch.equal(first.transition_.to_dense(), second.transition_.to_dense())
    assert torch.equal(first.predict_proba(features), second.predict_proba(features))
    assert torch.equal(given.weight, before)


def test_batches_teach_too():
    features, classes, labels = clusters(0.5)
    loader = DataLoader(TensorDataset(features, labels), batch_size=128)
    model = VolumeMinimized(3, **FAST).fit(loader)
    assert float((model.predict(features) == classes).float().mean()) > 0.97
    assert len(model.history_) == 6


@pytest.mark.filterwarnings("ignore::attnchain.errors.AssumptionWarning")
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    features, _, labels = clusters(0.5, 600)
    file = tmp_path / "state.pt"

    class Killed(nn.Module):
        """Breaks down in the third epoch, until it is told not to."""

        runs, last = 0, 10**6

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            Killed.runs += self.training
            if Killed.runs > Killed.last:
                raise KeyboardInterrupt
            return self.inner(x)

    model = Killed()
    whole = VolumeMinimized(3, model, epochs=4).fit(features, labels)
    Killed.runs, Killed.last = 0, 12
    with pytest.raises(KeyboardInterrupt):
        VolumeMinimized(3, model, epochs=4).fit(features, labels, checkpoint=file)
    assert file.exists()
    Killed.last = 10**6
    resumed = VolumeMinimized(3, model, epochs=4).fit(features, labels, checkpoint=file)
    matrices = [found.transition_.to_dense() for found in (resumed, whole)]
    assert torch.equal(*matrices)
    assert resumed.history_ == whole.history_
    with pytest.raises(ArgumentError, match="other settings"):
        VolumeMinimized(3, model, epochs=5).fit(features, labels, checkpoint=file)


def test_posteriors_that_are_not_scattered_are_warned_about():
    """A classifier that can only be unsure: its posteriors fill a small disc."""

    class Unsure(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            return 0.3 * self.inner(x).tanh()

    features, _, labels = clusters(0.5)
    with pytest.warns(AssumptionWarning, match="not sufficiently scattered"):
        model = VolumeMinimized(3, Unsure(), **FAST).fit(features, labels)
    assert model.scattering_ > 1.25
    assert transition_error(model.transition_.to_dense(), FLOW) > 0.15


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (torch.tensor([0, 1, 2, 3]), ArgumentError, "0..2, as n_classes is 3"),
        (torch.tensor([0, 1, 2, -1]), ArgumentError, "one is -1"),
        (torch.tensor([0, 1, 1, 0]), ArgumentError, "class 2 never occurs"),
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), ShapeError, "whole numbers"),
        (torch.tensor([0, 1, 2]), ShapeError, "one for each of 4"),
        ([0, 1, 2, 1], ShapeError, "list"),
        (None, ArgumentError, "noisy_labels are missing"),
    ],
)
def test_labels_are_checked_before_anything_is_learned(labels, error, words):
    with pytest.raises(error, match=words):
        VolumeMinimized(3).fit(torch.zeros(4, 2), labels)


def test_features_are_checked():
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(NotStochasticError, match="features"):
        VolumeMinimized(3).fit(torch.tensor([[0.0], [1.0], [float("nan")]]), labels)
    with pytest.raises(ArgumentError, match="DataLoader"):
        VolumeMinimized(3).fit(iter([(torch.zeros(3, 1), labels)]))
    with pytest.raises(ArgumentError, match="fit first"):
        VolumeMinimized(3).predict(torch.zeros(1, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": float("nan")},
        {"validation": 1.0},
        {"volume_weight": -1},
        {"speed": 3},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        VolumeMinimized(3, **wrong)


def test_a_loss_that_explodes_is_an_error():
    features, _, labels = clusters(0.5, 400)
    with pytest.raises(ConvergenceError, match="learning_rate below"):
        VolumeMinimized(3, learning_rate=1e20).fit(features, labels)
