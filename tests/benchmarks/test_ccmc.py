"""The measures of the two benchmarks of text: against counts by hand."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "methods"


@pytest.fixture
def script(monkeypatch):
    """Scripts as modules, which import each other by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    names = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - names:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_windows_are_counted_as_by_hand(script, monkeypatch):
    text = script("ccmc_text")
    monkeypatch.setattr(text, "PROMPT", 4)
    monkeypatch.setattr(text, "WINDOW", 4)
    prompt = torch.tensor([[0, 1, 2, 3]])
    told = torch.tensor([[0, 1, 2, 3, 4, 4, 4, 4]])
    found = text.windows(prompt, told)
    # First: four distinct, none new, the run 0 1 2 3 again, once.
    assert found[0, 0].tolist() == [1, 0, 0.25]
    # Then: one distinct, new at first, and no run of four is there a second time.
    assert found[0, 1].tolist() == [0.25, 0.25, 0]


def test_bits_of_a_sure_and_of_an_even_guess(script):
    text = script("ccmc_text")
    matrix = torch.eye(27, dtype=torch.float64)
    offered = torch.zeros(2, 27, dtype=torch.float64)
    offered[:, :4] = 0.25
    last, following = torch.tensor([1, 1]), torch.tensor([1, 2])
    found = text.bits_of(matrix, offered, last, following)
    expected = -np.log2([0.99 + 0.01 / 4, 0.01 / 4])
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("said", "heard", "errors"),
    [
        ("ten of clubs", "Ten of clubs.", (0, 3)),
        ("ten of clubs", "ten clubs", (1, 3)),
        ("an ill-disposed man", "an old disposed young man", (2, 4)),
        ("five", "", (1, 1)),
    ],
)
def test_word_errors(script, said, heard, errors):
    assert script("hard_retrieval_speech").word_errors(said, heard) == errors


def test_an_interval_covers_as_often_as_it_says(script):
    ccmc = script("ccmc")
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2000, 6))
    inside = [abs(m) <= w for m, w in map(ccmc.interval, values)]
    assert 0.93 < np.mean(inside) < 0.97


@torch.no_grad()
def test_the_control_takes_every_seen_key_alike(script):
    models = pytest.importorskip("transformers") and script("hard_retrieval_models")
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 500, 2, 3, 4, generator=generator).unbind()
    v = torch.eye(3).expand(500, 2, 3, 3)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    found = models.Drawn(True)(q, k, v, attn_mask=mask)
    even = mask / mask.sum(-1, keepdim=True)
    torch.testing.assert_close(found.mean((0, 1)), even, atol=0.05, rtol=0)
    own = models.Drawn(False)(q, k, v, is_causal=True, scale=0.5)
    scores = (0.5 * q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(own.mean((0, 1)), scores.mean((0, 1)), atol=0.05, rtol=0)
