"""Random attention weights: moments, divergences and gradients in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.methods import DirichletWeights, LogNormalWeights, WeibullWeights

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
FAMILIES = [WeibullWeights(5.0), LogNormalWeights(0.5), DirichletWeights(20.0)]
MANY = 200_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def many(family, count=MANY):
    return family.sample(P.log().expand(count, 4), generator())


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_weights_have_mean_p_and_the_told_deviation(family):
    drawn = many(family).exp()
    deviation = family.relative_deviation(P) * P
    error = deviation / MANY**0.5
    assert bool(((drawn.mean(0) - P).abs() < 5 * error).all())
    assert torch.allclose(drawn.std(0), deviation, rtol=0.03)


def scipy_law(family, p):
    if isinstance(family, WeibullWeights):
        k = family.shape
        return stats.weibull_min(k, scale=p / special.gamma(1 + 1 / k))
    if isinstance(family, LogNormalWeights):
        s = family.deviation
        return stats.lognorm(s, scale=p * math.exp(-(s**2) / 2))
    c = family.concentration
    return stats.gamma(c * p, scale=1 / c)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_weights_follow_scipys_law(family):
    drawn = many(family, 20_000).exp()
    for j, p in enumerate(P.tolist()):
        assert stats.kstest(drawn[:, j].numpy(), scipy_law(family, p).cdf).pvalue > 1e-3
        wrong = scipy_law(family, 1.1 * p).cdf
        assert stats.kstest(drawn[:, j].numpy(), wrong).pvalue < 1e-3


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_the_deviation_is_scipys(family):
    told = family.relative_deviation(P)
    for p, value in zip(P.tolist(), told.tolist(), strict=True):
        law = scipy_law(family, p)
        assert value == pytest.approx(law.std() / law.mean(), rel=1e-8)


def test_normalising_flattens_the_mean_of_all_but_dirichlet_rows():
    """The known values of related work: .485, .303, .158, .054 and .496."""
    expected = torch.tensor([0.485, 0.303, 0.158, 0.054], dtype=torch.float64)
    found = many(LogNormalWeights(0.5)).softmax(-1).mean(0)
    assert torch.allclose(found, expected, atol=1.2e-3)
    assert float(many(WeibullWeights(5.0)).softmax(-1).mean(0)[0]) == pytest.approx(
        0.496, abs=1e-3
    )
    fair = many(DirichletWeights(20.0)).softmax(-1)
    error = (P * (1 - P) / 21 / MANY).sqrt()
    assert bool(((fair.mean(0) - P).abs() < 5 * error).all())
    assert torch.allclose(fair.var(0), P * (1 - P) / 21, rtol=0.03)


def numeric_kl(law, prior):
    """The divergence by adaptive quadrature over the logarithm of the weight."""

    def integrand(t):
        x = math.exp(t)
        return law.pdf(x) * x * (law.logpdf(x) - prior.logpdf(x))

    low, high = np.log(law.ppf([1e-16, 1 - 1e-16]))
    middle = np.log(law.median())
    options = {"limit": 400, "epsabs": 1e-10, "epsrel": 1e-9}
    left = integrate.quad(integrand, low, middle, **options)[0]
    return left + integrate.quad(integrand, middle, high, **options)[0]


def found_kl(family, p, q):
    p, q = (torch.tensor(x, dtype=torch.float64) for x in (p, q))
    return float(family.divergence(p.log(), q))


@given(
    st.floats(0.05, 1),
    st.floats(0.1, 3),
    st.floats(0.8, 200),
    st.floats(0.3, 3),
)
def test_weibull_and_gamma_diverge_as_by_quadrature(p, q, k, beta):
    family = WeibullWeights(k, rate=beta)
    expected = numeric_kl(scipy_law(family, p), stats.gamma(beta * q, scale=1 / beta))
    assert found_kl(family, p, q) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_weibull_and_gamma_diverge_as_computed_elsewhere():
    """Values of `readouts.json`: alpha, beta, k, lambda."""
    for alpha, beta, k, scale, expected in (
        (1, 1, 2, 0.5, 0.5407999913955033),
        (2, 3, 5, 0.2, 1.8356610064650183),
        (0.3, 1, 10, 0.1, 2.624394497742535),
        (0.5, 2, 1000, 0.25, 6.749478641360026),
        (4, 0.5, 1.5, 3, 1.8915081924991841),
    ):
        p = scale * special.gamma(1 + 1 / k)
        found = found_kl(WeibullWeights(k, rate=beta), p, alpha / beta)
        assert found == pytest.approx(expected, rel=1e-10)


@given(st.floats(0.05, 1), st.floats(0.1, 3), st.floats(0.2, 2), st.floats(0.3, 2))
def test_log_normal_weights_diverge_as_by_quadrature(p, q, sigma, prior):
    family = LogNormalWeights(sigma, prior_deviation=prior)
    expected = numeric_kl(scipy_law(family, p), stats.lognorm(prior, scale=q))
    assert found_kl(family, p, q) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@given(st.floats(0.1, 1), st.floats(0.1, 3), st.floats(5, 50), st.floats(0.3, 3))
def test_gamma_weights_diverge_as_by_quadrature(p, q, c, beta):
    family = DirichletWeights(c, rate=beta)
    prior = stats.gamma(beta * q, scale=1 / beta)
    expected = numeric_kl(scipy_law(family, p), prior)
    assert found_kl(family, p, q) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_divergence_from_itself_is_zero_and_others_are_not():
    same = DirichletWeights(7.0, rate=7.0)
    assert torch.allclose(same.divergence(P.log(), P), torch.zeros_like(P), atol=1e-12)
    assert bool((same.divergence(P.log(), 2 * P) > 0.01).all())


@pytest.mark.parametrize(
    "family", [WeibullWeights(5.0), LogNormalWeights(0.5)], ids=repr
)
def test_gradients_are_those_of_finite_differences(family):
    """With the noise held still, a drawn row is a smooth function of ln p."""
    target = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def value(log_weights):
        drawn = family.sample(log_weights, generator(3)).softmax(-1)
        return (drawn * target).sum().exp()

    start = P.log().requires_grad_()
    assert torch.autograd.gradcheck(value, start)
    (exact,) = torch.autograd.grad(value(start), start)
    assert float(exact.norm()) > 0.1


def test_gradients_of_dirichlet_weights_are_the_implicit_ones():
    r"""$dG/da = -\partial_a F(a, G) / f(a, G)$ at the drawn value, F by SciPy."""
    family = DirichletWeights(20.0)
    start = P.log().requires_grad_()
    drawn = family.sample(start, generator(1))
    (exact,) = torch.autograd.grad(drawn.sum(), start)
    for j, p in enumerate(P.tolist()):
        a, g, h = 20 * p, 20 * float(drawn.detach()[j].exp()), 1e-5
        slope = (special.gammainc(a + h, g) - special.gammainc(a - h, g)) / (2 * h)
        expected = -slope / stats.gamma(a).pdf(g) * a / g
        assert float(exact[j]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_gradients_of_divergences_are_those_of_finite_differences(family):
    logs = P.log().requires_grad_()
    prior = torch.tensor([0.2, 0.3, 0.1, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(family.divergence, (logs, prior))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_weights_that_are_not_there_stay_away(family):
    logs = torch.tensor([0.5, 0.0, 0.5]).log().requires_grad_()
    drawn = family.sample(logs, generator())
    assert drawn.isfinite().tolist() == [True, False, True]
    lost = family.divergence(logs, torch.full((3,), 0.3))
    assert (lost == 0).tolist() == [False, True, False]
    assert bool(lost.isfinite().all())
    (drawn.softmax(-1)[0] + lost.sum()).backward()
    assert bool(logs.grad.isfinite().all())


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_generator_makes_the_noise_repeat(family):
    one, same, other = (family.sample(P.log(), generator(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_single_precision_survives_tiny_weights(family):
    logs = torch.tensor([0.0, -100.0, -1e4]).log_softmax(-1).requires_grad_()
    drawn = family.sample(logs.expand(1000, 3), generator()).softmax(-1)
    assert bool(drawn.isfinite().all())
    drawn[:, 0].sum().backward()
    assert bool(logs.grad.isfinite().all())


@pytest.mark.parametrize("kind", [WeibullWeights, LogNormalWeights, DirichletWeights])
@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, "10", None, True])
def test_parameters_are_numbers_above_zero(kind, wrong):
    with pytest.raises(ArgumentError, match="number > 0"):
        kind(wrong)
    with pytest.raises(ArgumentError, match=r"rate|prior_deviation"):
        kind(1.0, wrong)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_what_are_no_weights_is_refused(family):
    with pytest.raises(ShapeError, match="log_weights"):
        family.sample(torch.tensor([1, 2]))
    with pytest.raises(ArgumentError, match="log_weights"):
        family.sample([0.0])
    with pytest.raises(NotStochasticError, match="but one is 0"):
        family.divergence(P.log(), torch.tensor([1.0, 1.0, 1.0, 0.0]))
