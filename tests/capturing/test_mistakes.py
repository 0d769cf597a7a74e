"""Mistakes of a new user: one clear line that says what to do."""

from types import SimpleNamespace

import pytest
import torch
from tests.capturing.modules import Attending, Layers, sequence

from attnchain.capturing import TokenGrid, capture
from attnchain.errors import (
    ArgumentError,
    CaptureError,
    ChainError,
    GridError,
    NothingCapturedError,
    SiteNotFoundError,
    UnsupportedModelError,
)

X = sequence(2, 3, 5, 8)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_bytes": None}, ArgumentError, "max_bytes must be a number"),
        ({"max_bytes": "8GB"}, ArgumentError, "max_bytes must be a number"),
        ({"device": "gpu"}, ArgumentError, "kept on device='gpu'"),
        ({"grid": (4, 4)}, ArgumentError, r"TokenGrid\(rows="),
        ({"layers": []}, ArgumentError, "layers must be a whole number"),
        ({"layers": "0"}, ArgumentError, "layers must be a whole number"),
        ({"forwards": 0.5}, ArgumentError, "forwards must be a whole number"),
        ({"resolution": 5}, ArgumentError, r"must be \(rows, columns\)"),
        ({"steps": 0}, ArgumentError, "capture the pipeline"),
        ({"layer": 0}, ArgumentError, "by layer; choose by layers"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_before_the_model_runs(options, error, words):
    with pytest.raises(error, match=words), capture(Layers(), **options):
        pytest.fail("the block was entered")


def test_a_name_without_a_star():
    model = Layers(2)
    with pytest.raises(SiteNotFoundError) as caught, capture(model, name="layers"):
        model(X)
    assert str(caught.value) == (
        "nothing that was captured fits name='layers'; the model has 2 self layers, "
        "named layers.0; layers.1. In a name, * stands for any characters: "
        "name='*attn*'"
    )


def test_another_model_was_run():
    with (
        pytest.raises(NothingCapturedError, match="the very module"),
        capture(Layers()),
    ):
        Layers()(X)


@pytest.mark.parametrize("thing", [None, "vit", Layers, Layers().forward], ids=repr)
def test_what_is_no_model(thing):
    with pytest.raises(UnsupportedModelError, match="torch module"), capture(thing):
        pass


def test_a_wrapper_of_a_model():
    wrapper = SimpleNamespace(model=Layers())
    with pytest.raises(UnsupportedModelError, match=r"\.model$"), capture(wrapper):
        pass


def test_a_grid_function_that_knows_some_modules_only():
    model = Layers(2)

    def grid(name, _):
        return TokenGrid(1, 5) if name == "layers.1" else None

    with capture(model, grid=grid) as attention:
        model(X)
    assert attention[1].grid == TokenGrid(1, 5)
    with pytest.raises(GridError, match="a function of a module's name"):
        _ = attention[0].grid


def test_a_mistake_in_a_call_is_torchs_own():
    model = Attending()
    with pytest.raises(RuntimeError) as plain:
        model(X, X[..., :3], X)
    with pytest.raises(RuntimeError) as inside, capture(model):
        model(X, X[..., :3], X)
    assert str(plain.value) == str(inside.value)
    assert not isinstance(inside.value, ChainError)


def test_what_goes_wrong_in_reading_is_an_error_of_ours():
    def grid(name, n):
        raise ZeroDivisionError(f"{name} {n}")

    model = Layers(1)
    with (
        pytest.raises(
            CaptureError, match=r"scaled_dot.* in layers\.0 could not .*Zero"
        ),
        capture(model, grid=grid),
    ):
        model(X)


def test_meta_tensors_of_a_whole_model():
    with torch.device("meta"):
        model = torch.nn.TransformerDecoder(
            torch.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2
        )
        x, memory = torch.empty(1, 5, 8), torch.empty(1, 5, 8)
    with capture(model) as attention, torch.no_grad():
        model(x, memory)
    assert [r.site.kind for r in attention] == ["self", "cross"] * 2
