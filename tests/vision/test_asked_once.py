"""What is asked of a picture's chains is solved for once."""

from collections import Counter

import pytest
from tests.vision import tiny

from attnchain import mixed_heads
from attnchain.markov import metastability, mixture
from attnchain.vision import picture_attention as reading
from attnchain.vision import segment


@pytest.fixture
def asked(monkeypatch):
    """How often each solver was called, and which chains it was called on."""
    calls, chains = Counter(), []

    def counted(module, name):
        solve = getattr(module, name)

        def solved(chain, *args, **kwargs):
            calls[name] += 1
            chains.append((name, id(chain), chain))
            return solve(chain, *args, **kwargs)

        monkeypatch.setattr(module, name, solved)

    for module in (mixed_heads, mixture):
        counted(module, "second_eigenvalue")
    counted(metastability, "stationary")
    counted(metastability, "spectrum")
    counted(reading, "token_rank")
    yield calls
    assert len({call[:2] for call in chains}) == len(chains)


def test_sets_need_one_stationary_and_one_spectrum(model, asked):
    segment(tiny.picture(), model=model, size=64)
    assert asked == {"second_eigenvalue": 2, "spectrum": 1, "stationary": 1}


@pytest.mark.parametrize(
    ("options", "layers"), [({"point": (5, 5)}, 2), ({"foreground": True}, 1)], ids=str
)
def test_an_object_needs_lambda2_only(model, asked, options, layers):
    segment(tiny.picture(), model=model, size=64, **options)
    assert asked == {"second_eigenvalue": layers}


def test_figure_and_numbers_together_need_one_token_rank(model, asked, tmp_path):
    result = segment(tiny.picture(), model=model, size=64)
    result.summary()
    result.save(tmp_path, stem="it")
    result.plot()
    assert asked == {
        "second_eigenvalue": 2,
        "spectrum": 1,
        "stationary": 1,
        "token_rank": 1,
    }
