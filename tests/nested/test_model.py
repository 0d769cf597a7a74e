"""Encoder, decoder and model: who sees whom, and what is refused."""

import pytest
import torch
from torch.autograd.functional import jacobian

from attnchain import capture
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import closed_classes
from attnchain.nested import NestedConfig, NestedTokens, concept_mask
from attnchain.nested.decoder import FlowDecoder
from attnchain.operators import DenseTransition

SMALL = NestedConfig(
    size=8, patch=4, tokens=3, channels=2, width=16, heads=2, hidden=24, layers=1
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return NestedTokens(SMALL).eval()


def pictures(count=4, seed=0, colors=1):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, colors, 8, 8, generator=generator) - 1


def test_the_mask_is_the_one_told():
    mask = concept_mask(2, 3)
    assert mask[:3, :3].all()
    assert not mask[:3, 3:].any()
    assert mask[3:, :3].all()
    assert torch.equal(mask[3:, 3:], torch.ones(3, 3).bool().tril())


def test_tokens_see_earlier_tokens_only_and_patches_see_none(model):
    """By derivatives: which starting vectors reach which token."""
    encoder, inputs = model.encoder, torch.randn(1, 4, 16)
    start = encoder.start.detach()

    def outputs(vectors):
        return torch.func.functional_call(encoder, {"start": vectors}, (inputs,))

    slopes = jacobian(outputs, start)[0].abs().sum((1, 3))  # (tokens, 1 + 4 + 3)
    assert bool((slopes[:, :5] > 0).all())
    assert torch.equal(slopes[:, 5:] > 0, torch.ones(3, 3).bool().tril())


def test_as_a_chain_the_picture_is_the_closed_class(model):
    with capture(model) as captured:
        model.encode(pictures(1))
    for layer in captured.records:
        for head in layer.transition().chains():
            (closed,) = closed_classes(DenseTransition(head.to_dense()))
            assert closed.tolist() == [0, 1, 2, 3, 4]


def test_patches_are_cut_in_reading_order():
    """One patch changes only its own input."""
    torch.manual_seed(0)
    model = NestedTokens(NestedConfig(size=8, patch=4, colors=2, width=16, heads=2))
    seen = []
    model.encoder.embed.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    batch = pictures(1, colors=2)
    model.encode(batch)
    expected = torch.stack(
        [batch[0, :, r : r + 4, c : c + 4].flatten() for r in (0, 4) for c in (0, 4)]
    )
    assert torch.equal(seen[0][0], expected)


def test_the_mean_does_not_depend_on_noise_and_fills_null_vectors(model):
    tokens = model.encode(pictures())
    for k in range(4):
        filled = tokens.clone()
        filled[:, k:] = model.null[k:]
        found = model.predict_mean(tokens[:, :k])
        assert found.shape == (4, 1, 8, 8)
        torch.testing.assert_close(found, model.predict_mean(filled))
    ends = torch.ones(2)
    given = model._filled(tokens[:2])
    first, second = (model.decoder(torch.randn(2, 64), ends, given) for _ in range(2))
    assert torch.equal(first, second)


def test_drawn_pictures_repeat_for_a_seed(model):
    prefix = model.encode(pictures())[:, :2]
    first, again, other = (model.decode(prefix, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_flow_of_a_gaussian_ends_in_that_gaussian():
    """Known answer: x ~ N(m, s^2) has a linear denoiser and a closed-form flow."""
    mean, spread = 0.3, 0.5

    class Exact(FlowDecoder):
        def forward(self, noisy, t, condition):
            t = t[:, None]
            variance = (1 - t).square() * spread**2 + t.square()
            gain = (1 - t) * spread**2 / variance
            return mean + gain * (noisy - (1 - t) * mean)

    noise = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    decoder = Exact(5, 1, width=4, depth=1)
    found = decoder.sample(noise, torch.zeros(6, 1).double(), 4000)
    torch.testing.assert_close(found, mean + spread * noise, atol=2e-3, rtol=0)


def test_errors_are_those_of_the_formula(model):
    batch, noise = pictures(), torch.randn(4, 1, 8, 8)
    t = torch.tensor([0.2, 0.5, 0.9, 1.0])
    found = model.errors(batch, 3, t, noise)
    tokens = model.encode(batch).flatten(1)
    mixed = torch.stack(
        [(1 - s) * x + s * e for s, x, e in zip(t, batch, noise, strict=True)]
    )
    guess = model.decoder(mixed.flatten(1), t, tokens)
    velocity = (mixed.flatten(1) - guess) / t[:, None]
    truth = (noise - batch).flatten(1)
    expected = t.square() * (velocity - truth).square().mean(1)
    torch.testing.assert_close(found, expected)


def test_weights_come_back(model, tmp_path):
    model.save(tmp_path / "weights.safetensors")
    again = NestedTokens.load(tmp_path / "weights.safetensors")
    assert again.config == SMALL
    assert torch.equal(again.encode(pictures()), model.encode(pictures()))


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    junk, bare, other = (tmp_path / name for name in ("junk", "bare", "other"))
    junk.write_bytes(b"no weights")
    save_file({"x": torch.zeros(1)}, bare)
    save_file({"x": torch.zeros(1)}, other, metadata={"config": "{}"})
    for file in (junk, bare, other):
        with pytest.raises(ArgumentError, match="holds no nested tokens"):
            NestedTokens.load(file)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (torch.zeros(2, 1, 8, 9), ShapeError, r"\(pictures, 1, 8, 8\)"),
        (torch.zeros(1, 8, 8), ShapeError, "resize"),
        (torch.zeros(2, 3, 8, 8), ShapeError, "resize"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), ShapeError, "floating"),
        (torch.full((1, 1, 8, 8), torch.nan), ArgumentError, "finite"),
        (torch.full((1, 1, 8, 8), 255.0), ArgumentError, "127.5"),
        ([[0.0]], ArgumentError, "tensor"),
    ],
)
def test_pictures_are_checked(model, batch, error, words):
    with pytest.raises(error, match=words):
        model.encode(batch)


@pytest.mark.parametrize("how", ["decode", "predict_mean"])
@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        (torch.zeros(2, 4, 2), "0 to 3 tokens"),
        (torch.zeros(2, 1, 3), "2 channels"),
        (torch.zeros(2, 2), "has shape"),
        (torch.full((1, 1, 2), torch.inf), "finite"),
        (torch.zeros(2, 1, 2).long(), "floating"),
    ],
)
def test_prefixes_are_checked(model, how, prefix, words):
    with pytest.raises(ArgumentError, match=words):
        getattr(model, how)(prefix)


def test_steps_and_seeds_are_checked(model):
    with pytest.raises(ArgumentError, match="steps"):
        model.decode(torch.zeros(1, 1, 2), steps=0)
    with pytest.raises(ArgumentError, match="seed"):
        model.decode(torch.zeros(1, 1, 2), seed=-1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"patch": 3}, "patch must divide size"),
        ({"heads": 3}, "heads must divide width"),
        ({"tokens": 0}, "tokens"),
        ({"width": 2.5}, "width"),
    ],
)
def test_sizes_are_checked(wrong, words):
    with pytest.raises(ArgumentError, match=words):
        NestedConfig(**wrong)
