"""Attention that draws its weights: against torch's own, and its divergence."""

import copy
import pickle

import pytest
import torch
from torch import nn

import attnchain as ac
from attnchain.errors import ArgumentError, ShapeError
from attnchain.methods import (
    BayesianAttention,
    DirichletWeights,
    LogNormalWeights,
    WeibullWeights,
)

FAMILIES = [WeibullWeights(5.0), LogNormalWeights(0.5), DirichletWeights(20.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(n=5, width=8, seed=0):
    return torch.randn(2, n, width, generator=generator(seed))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return BayesianAttention(8, 2, WeibullWeights(5.0))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_without_sampling_it_is_torchs_attention(family, bias):
    torch.manual_seed(1)
    own = nn.MultiheadAttention(8, 2, batch_first=True, bias=bias).eval()
    if bias:
        nn.init.normal_(own.in_proj_bias)
        nn.init.normal_(own.out_proj.bias)
    made = BayesianAttention.from_multihead(own, family)
    x, context = tokens(), tokens(7, seed=1)
    mask = torch.rand(5, 7, generator=generator()) < 0.6
    mask[:, 0] = True
    expected = own(x, context, context, attn_mask=~mask)[0]
    torch.testing.assert_close(made(x, context, mask=mask), expected)
    made.sampling = True
    drawn = made(x, context, mask=mask, generator=generator())
    assert not torch.allclose(drawn, expected, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
@pytest.mark.parametrize("prior", ["contextual", "constant"])
def test_output_and_divergence_are_those_of_the_formulas(family, prior):
    torch.manual_seed(2)
    made = BayesianAttention(8, 2, family, prior=prior).double()
    x = tokens().double()
    mask = torch.ones(5, 5).bool().tril()
    found = made(x, mask=mask, generator=generator(4))
    noise, losses = generator(4), []
    query, key, value = made.query(x), made.key(x), made.value(x)
    logs, priors = torch.empty(2, 2, 5, 5).double(), torch.ones(2, 2, 5, 5).double()
    for b, h in torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist():
        part = slice(4 * h, 4 * h + 4)
        for i in range(5):
            seen = key[b, : i + 1, part]
            logs[b, h, i] = -torch.inf
            logs[b, h, i, : i + 1] = (seen @ query[b, i, part] / 2).log_softmax(-1)
            if prior == "contextual":
                priors[b, h, i, : i + 1] = made.prior(seen)[:, 0].softmax(-1)
            losses.append(family.divergence(logs[b, h, i], priors[b, h, i]))
    drawn = family.sample(logs, noise).softmax(-1)
    seen = torch.cat(
        [drawn[:, h] @ value[..., 4 * h : 4 * h + 4] for h in range(2)], -1
    )
    torch.testing.assert_close(found, made.out(seen))
    pairs = 2 * 2 * 15
    torch.testing.assert_close(made.kl, torch.stack(losses).sum() / pairs)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_every_parameter_learns(family):
    torch.manual_seed(3)
    made = BayesianAttention(8, 2, family)
    (made(tokens()).square().mean() + made.kl).backward()
    for name, parameter in made.named_parameters():
        # A key's offset adds one number to all scores of a query.
        if name != "key.bias":
            assert float(parameter.grad.abs().max()) > 1e-8, name


def test_learning_the_divergence_pulls_weights_to_the_prior():
    torch.manual_seed(4)
    made = BayesianAttention(8, 1, WeibullWeights(5.0), prior="constant")
    x = 3 * tokens()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    with torch.no_grad():
        made(x)
    start = float(made.kl.detach())
    for _ in range(60):
        optimizer.zero_grad()
        made(x)
        made.kl.backward()
        optimizer.step()
    even = torch.full((5,), 0.2).log()
    floor = float(WeibullWeights(5.0).divergence(even, torch.ones(5)).mean())
    assert floor - 1e-5 < float(made.kl.detach()) < floor + 0.2 * (start - floor)


def test_sampling_follows_training_unless_told(attention):
    x = tokens()
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    attention.sampling = True
    assert not torch.equal(attention(x), attention(x))
    attention.train().sampling = False
    assert torch.equal(attention(x), attention(x))
    attention.sampling = None
    one = attention(x, generator=generator(1))
    assert torch.equal(one, attention(x, generator=generator(1)))
    assert not torch.equal(one, attention(x, generator=generator(2)))


def test_a_divergence_is_never_that_of_an_earlier_call(attention):
    with pytest.raises(ArgumentError, match="did not"):
        _ = attention.kl
    attention(tokens())
    assert float(attention.kl.detach()) > 0
    attention.eval()(tokens())
    with pytest.raises(ArgumentError, match="did not"):
        _ = attention.kl


def test_it_can_be_copied_and_written_after_a_call(attention):
    attention(tokens())
    written = pickle.dumps(attention)
    for twin in (copy.deepcopy(attention), pickle.loads(written)):  # noqa: S301 - ours
        assert torch.equal(twin.eval()(tokens()), attention.eval()(tokens()))


def test_its_means_are_captured_as_a_chain(attention):
    with ac.capture(attention.eval()) as captured:
        attention(tokens())
    (record,) = captured
    query, key = attention.query(tokens()), attention.key(tokens())
    expected = (query[0, :, :4] @ key[0, :, :4].mT / 2).softmax(-1)
    torch.testing.assert_close(record.transition().to_dense()[0, 0], expected)


def test_masks_that_leave_nothing_are_refused(attention):
    mask = torch.ones(5, 5).bool()
    mask[2] = False
    with pytest.raises(ArgumentError, match="without any key"):
        attention(tokens(), mask=mask)
    with pytest.raises(ShapeError, match="truth values"):
        attention(tokens(), mask=torch.zeros(5, 5))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"heads": 3}, "heads must divide"),
        ({"heads": 0}, "heads must lie"),
        ({"width": 0}, "width"),
        ({"family": 5.0}, "family"),
        ({"prior": "flat"}, "prior must be"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_arguments_are_checked(change, named):
    given = {"width": 8, "heads": 2, "family": FAMILIES[0], **change}
    with pytest.raises(ArgumentError, match=named):
        BayesianAttention(**given)


@pytest.mark.parametrize(
    "other",
    [{"batch_first": False}, {"dropout": 0.1}, {"kdim": 4}, {"add_zero_attn": True}],
    ids=str,
)
def test_other_attention_is_not_taken_over(other):
    given = nn.MultiheadAttention(8, 2, **{"batch_first": True, **other})
    with pytest.raises(ArgumentError, match="dropout 0"):
        BayesianAttention.from_multihead(given, FAMILIES[0])
