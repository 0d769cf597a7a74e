"""Nested drop-out, what it orders, and explained variance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnchain.errors import ArgumentError, ShapeError
from attnchain.nested import draw_keeps, explained_variance, keep_prefix

EIGENVALUES = torch.tensor([8.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.3, 0.1]).double()


def data_with(eigenvalues, axes, count=400):
    """Centred points whose covariance is exactly that."""
    raw = torch.randn(count, len(eigenvalues), dtype=torch.float64)
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T.cov(correction=0))).T
    return white * eigenvalues.sqrt() @ axes.T


def linear_model(points, prefixes, steps=3000):
    """Encoder 8 to 4 and decoder, their loss averaged over some prefixes.

    Returns |cos| between columns of the decoder and axes, and the loss of each prefix.
    """
    torch.manual_seed(1)
    encode = torch.nn.Parameter(0.3 * torch.randn(8, 4, dtype=torch.float64))
    decode = torch.nn.Parameter(0.3 * torch.randn(4, 8, dtype=torch.float64))
    optimizer = torch.optim.Adam([encode, decode], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    null = torch.zeros(4, 1, dtype=torch.float64)

    def losses(ks):
        tokens = (points @ encode)[..., None]
        for k in ks:
            found = keep_prefix(tokens, k, null)[..., 0] @ decode
            yield (points - found).square().sum(1).mean()

    for _ in range(steps):
        optimizer.zero_grad()
        (sum(losses(prefixes)) / len(prefixes)).backward()
        optimizer.step()
        schedule.step()
    columns = torch.nn.functional.normalize(decode.detach(), dim=1)
    with torch.no_grad():
        return columns, [float(loss) for loss in losses(range(1, 5))]


def test_linear_tokens_are_the_principal_components_in_order():
    """Known answer: eigenvectors, and exact tails of the eigenvalues as losses."""
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    points = data_with(EIGENVALUES, axes)
    columns, losses = linear_model(points, (1, 2, 3, 4))
    cosines = (columns * axes.T[:4]).sum(1).abs()
    assert bool((cosines > 0.9999).all()), cosines
    tails = [float(EIGENVALUES[k:].sum()) for k in range(1, 5)]
    assert losses == pytest.approx(tails, rel=1e-3)
    columns, losses = linear_model(points, (4,))
    cosines = (columns * axes.T[:4]).sum(1).abs()
    assert losses[-1] == pytest.approx(tails[-1], rel=1e-3)
    assert bool((cosines < 0.99).any())
    assert losses[0] > 1.1 * tails[0]


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 3))
def test_a_prefix_is_kept_and_the_rest_is_null(count, keep, channels):
    keep = min(keep, count)
    tokens, null = torch.randn(5, count, channels), torch.randn(count, channels)
    found = keep_prefix(tokens, keep, null)
    assert torch.equal(found[:, :keep], tokens[:, :keep])
    assert torch.equal(found[:, keep:], null[keep:].expand(5, -1, -1))
    several = keep_prefix(tokens, torch.full((5,), keep), null)
    assert torch.equal(several, found)


def test_every_picture_may_keep_its_own():
    tokens, null = torch.ones(3, 2, 1), torch.zeros(2, 1)
    found = keep_prefix(tokens, torch.tensor([0, 1, 2]), null)[..., 0]
    assert found.tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("keep", [-1, 4, 1.0, True, torch.tensor([0, 4])])
def test_no_more_than_all_can_be_kept(keep):
    with pytest.raises(ArgumentError, match=r"keep must lie in 0\.\.3"):
        keep_prefix(torch.zeros(2, 3, 1), keep, torch.zeros(3, 1))


def test_shapes_of_prefixes_are_checked():
    with pytest.raises(ShapeError, match="null"):
        keep_prefix(torch.zeros(2, 3, 1), 1, torch.zeros(2, 1))
    with pytest.raises(ShapeError, match="each of 2 pictures"):
        keep_prefix(torch.zeros(2, 3, 1), torch.tensor([1]), torch.zeros(3, 1))
    with pytest.raises(ShapeError, match="whole number"):
        keep_prefix(torch.zeros(2, 3, 1), torch.tensor([1.0, 2]), torch.zeros(3, 1))


def test_keeps_are_uniform_and_repeat():
    drawn = [draw_keeps(40_000, 4, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    shares = torch.bincount(drawn[0], minlength=5) / 40_000
    assert float(shares[0]) == 0
    assert bool(((shares[1:] - 0.25).abs() < 0.01).all())


def test_all_may_be_dropped_or_none():
    generator = torch.Generator().manual_seed(0)
    plain = draw_keeps(20_000, 4, generator, nested=False, drop=0.2)
    assert set(plain.tolist()) == {0, 4}
    assert float((plain == 0).float().mean()) == pytest.approx(0.2, abs=0.015)
    assert draw_keeps(9, 4, generator, drop=1.0).eq(0).all()


@pytest.mark.parametrize(
    ("rows", "tokens", "drop"), [(0, 4, 0.1), (3, 0, 0.1), (3, 4, 1.5), (3, 4, "a")]
)
def test_draws_are_checked(rows, tokens, drop):
    with pytest.raises(ArgumentError):
        draw_keeps(rows, tokens, torch.Generator(), drop=drop)


def test_explained_variance_is_that_of_the_formula():
    found = explained_variance(torch.tensor([10.0, 4.0, 6.0, 2.0, 5.0]))
    expected = torch.tensor([0, 6 / 5, 4 / 5, 8 / 5, 1]).double()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "losses", [[1.0], [1.0, float("nan")], [2.0, 2.0], [1.0, 2.0], [[3.0, 1.0]]]
)
def test_losses_that_explain_nothing_are_refused(losses):
    with pytest.raises(ArgumentError, match=r"losses must|must lower"):
        explained_variance(losses)
