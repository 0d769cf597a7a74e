"""Bits that are known, the blind spot, what must give nothing; refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.methods import ablate, reverse_probe
from attnchain.methods.reverse_probing import _fit

ROWS = 20000


def bits_of(shares):
    shares = np.asarray(shares)
    return float(-(shares * np.log2(shares)).sum())


@pytest.fixture
def concepts(generator):
    return torch.rand(ROWS, 3, generator=generator) < 0.5


def probe(states, concepts, **options):
    groups = torch.arange(len(states)) // 10
    return reverse_probe(states.long(), concepts, groups=groups, **options)


def test_states_that_are_two_concepts(concepts):
    found = probe(2 * concepts[:, 0].long() + concepts[:, 1], concepts)
    assert abs(found.entropy - 2) < 0.001
    assert 1.98 < found.bits <= found.entropy
    named = [set(names) for names in found.names(["a", "b", "c"])]
    assert named == [set(), {"b"}, {"a"}, {"a", "b"}]
    assert set(found.strengths) == {1.0}


def test_the_and_of_two(concepts):
    found = probe(concepts[:, 0] & concepts[:, 1], concepts)
    assert abs(found.entropy - bits_of([0.25, 0.75])) < 0.01
    assert found.entropy - 0.01 < found.bits <= found.entropy


def test_blind_to_exclusive_or(concepts):
    """The negative control: one bit is there, and no sum of concepts tells it."""
    states = concepts[:, 0] ^ concepts[:, 1]
    found = probe(states, concepts)
    assert found.entropy > 0.999
    assert abs(found.bits) < 3 * found.standard_error + 1e-3
    product = (concepts[:, 0] & concepts[:, 1])[:, None]
    assert probe(states, torch.cat([concepts, product], 1)).bits > 0.98


def test_shuffled_states_tell_nothing(concepts, generator):
    states = 2 * concepts[:, 0].long() + concepts[:, 1]
    found = probe(states[torch.randperm(ROWS, generator=generator)], concepts)
    assert abs(found.bits) < 3 * found.standard_error + 1e-3
    assert found.bits_in_sample > found.bits


def test_noise_leaves_a_strict_lower_bound(concepts, generator):
    """One in five states is drawn anew: 1.152 bits are there, a sum tells 1.064."""
    clean = 2 * concepts[:, 0].long() + concepts[:, 1]
    anew = torch.rand(ROWS, generator=generator) < 0.2
    drawn = torch.randint(4, (ROWS,), generator=generator)
    found = probe(torch.where(anew, drawn, clean), concepts)
    there = 2 - bits_of([0.85, 0.05, 0.05, 0.05])
    assert abs(there - 1.152) < 0.001
    assert found.bits < there - 0.05
    assert abs(found.bits - 1.064) < 0.03


def test_the_error_is_that_of_repetition():
    """Over draws of the data, bits scatter as their standard error says."""
    found = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        said = torch.rand(60, 1, generator=generator) < 0.5
        said = said.repeat_interleave(20, 0)
        flip = torch.rand(1200, generator=generator) < 0.3
        states = (said[:, 0] ^ flip).long()
        groups = torch.arange(1200) // 20
        found.append(reverse_probe(states, said, groups=groups, strengths=[1.0]))
    spread = float(np.std([one.bits for one in found], ddof=1))
    told = float(np.mean([one.standard_error for one in found]))
    assert 0.7 < told / spread < 1.4


def test_groups_keep_a_picture_from_telling_on_itself(generator):
    """A concept that names the picture explains its state inside, nowhere else."""
    groups = torch.arange(30).repeat_interleave(20)
    named = torch.nn.functional.one_hot(groups).bool()
    states = torch.randint(5, (30,), generator=generator)[groups]
    leaking = reverse_probe(states, named, groups=torch.arange(600), strengths=[1.0])
    honest = reverse_probe(states, named, groups=groups, strengths=[1.0])
    assert leaking.bits > 1.5
    assert honest.bits < 0.05


def test_the_fit_is_that_of_scikit_learn(generator):
    """States as frequent as each other, so that the frequencies add nothing."""
    states = torch.arange(400) % 4
    noise = torch.rand(400, 3, generator=generator)
    said = (states[:, None] > torch.arange(3)) ^ (noise < 0.2)
    kinds = torch.cat([said, torch.ones(400, 1)], 1).double().numpy()
    counts = torch.nn.functional.one_hot(states).double().numpy()
    library = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-9, max_iter=9999)
    expected = library.fit(kinds, states).coef_.T
    np.testing.assert_allclose(_fit(kinds, counts, 2.0), expected, atol=1e-3)


@given(st.integers(0, 100))
def test_bits_are_means_over_groups_and_states(seed):
    generator = torch.Generator().manual_seed(seed)
    said = torch.rand(120, 2, generator=generator) < 0.5
    states = torch.randint(3, (120,), generator=generator)
    groups = torch.randint(8, (120,), generator=generator)
    found = reverse_probe(states, said, groups=groups, folds=3)
    rows = torch.bincount(states, minlength=len(found.state_bits))
    whole = (found.state_bits.nan_to_num() * rows).sum() / 120
    assert math.isclose(float(whole), found.bits, abs_tol=1e-9)
    assert math.isclose(float(found.group_bits.sum()) / 120, found.bits, abs_tol=1e-9)
    turned = reverse_probe(
        states.flip(0), said.flip(0), groups=groups.flip(0), folds=3
    )  # fmt: skip
    assert math.isclose(turned.bits, found.bits, abs_tol=1e-4)


def test_one_state_has_nothing_to_tell(concepts):
    found = probe(torch.zeros(200), concepts[:200])
    assert found.bits == found.share == found.entropy == 0


def test_a_state_that_is_new_elsewhere_costs_bits_and_no_infinity(concepts):
    states = torch.zeros(300).long()
    states[:10] = 2
    found = probe(states, concepts[:300])
    assert math.isfinite(found.bits)
    assert math.isnan(float(found.state_bits[1]))


def test_families_left_out(concepts):
    states = 2 * concepts[:, 0].long() + concepts[:, 1]
    again = torch.cat([concepts, concepts[:, :1]], 1)
    groups = torch.arange(ROWS) // 10
    lost = ablate(
        states, again, {"second": [1], "third": [2], "copy": [3]}, groups=groups
    )
    assert abs(lost["second"][0] - 1) < 0.02
    assert abs(lost["third"][0]) < 0.01
    assert abs(lost["copy"][0]) < 0.01
    assert all(0 <= error < 0.01 for _, error in lost.values())
    with pytest.raises(ArgumentError, match="leave one"):
        ablate(states, concepts, {"all": [0, 1, 2]}, groups=groups)
    with pytest.raises(ArgumentError, match="0 to 2"):
        ablate(states, concepts, {"odd": [7]}, groups=groups)


def test_refusals(concepts):
    states, groups = torch.zeros(50).long(), torch.arange(50)
    said = concepts[:50]
    with pytest.raises(ShapeError, match="whole states"):
        reverse_probe(states.float(), said, groups=groups)
    with pytest.raises(ShapeError, match="whole states"):
        reverse_probe(states, said[:49], groups=groups)
    with pytest.raises(ArgumentError, match="from 0 up"):
        reverse_probe(states - 1, said, groups=groups)
    with pytest.raises(ArgumentError, match="5 folds need"):
        reverse_probe(states, said, groups=groups % 4)
    with pytest.raises(ArgumentError, match="folds"):
        reverse_probe(states, said, groups=groups, folds=2)
    with pytest.raises(ArgumentError, match="strength"):
        reverse_probe(states, said, groups=groups, strengths=[])
    with pytest.raises(NotStochasticError):
        reverse_probe(states, said.double() * math.nan, groups=groups)
    with pytest.raises(ArgumentError, match="torch tensor"):
        reverse_probe([0], said, groups=groups)
    found = reverse_probe(states, said, groups=groups)
    with pytest.raises(ArgumentError, match="3 concepts, but 2"):
        found.names(["a", "b"])
    with pytest.raises(ArgumentError, match="same groups"):
        found.minus(reverse_probe(states[:40], said[:40], groups=groups[:40]))
