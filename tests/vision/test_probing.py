"""The probe of objectness: read, fitted and used, against NumPy in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.vision import tiny

from attnchain.errors import (
    ArgumentError,
    ModelNotFoundError,
    OutputError,
    ShapeError,
    UnsupportedModelError,
)
from attnchain.maps import enlarge
from attnchain.models import ObjectProbe, read_probe
from attnchain.models.probes import bundled_probe
from attnchain.vision import fit_probe, read_attention, segment_object

NOTE = "Made-up masks."


@pytest.fixture(scope="module")
def probe():
    weights = torch.randn(2, 16, generator=torch.Generator().manual_seed(3)) / 8
    return ObjectProbe((0, 1), weights, 0.4, NOTE)


@pytest.fixture(scope="module")
def probed(model, probe):
    return replace(model, probe=probe)


def examples():
    """Pictures of 5 x 8 and 8 x 5 patches; the half of one patch is not known."""
    for count, size in enumerate([(64, 40), (40, 64), (64, 40)]):
        mask = torch.zeros(size[1], size[0], dtype=torch.uint8)
        mask[4 : 24 + 2 * count, 8:30] = 1
        mask[-8:, -5:] = 255
        yield tiny.picture(*size, seed=count), mask


def states_of(model, picture):
    """Unit states that both layers read, by the outputs of transformers, float64."""
    pixels = model.pixels(picture, size=64)
    with torch.no_grad():
        states = model.model(pixels, output_hidden_states=True).hidden_states
    rows = [state[0, 1:].double().numpy() for state in states[:2]]
    return np.hstack([x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows])


def test_objectness_is_a_bounded_linear_reading_of_unit_states(model, probed, probe):
    told = states_of(model, tiny.picture()) @ probe.weights.double().flatten().numpy()
    expected = (told + 0.4).clip(0, 1)
    found = read_attention(tiny.picture(), probed, layers=(0,), size=64).objectness
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert expected.std() > 0


def test_without_a_probe_there_is_no_objectness(attention):
    assert attention.objectness is None


def test_the_map_is_what_is_object_and_seen_after_the_bounces(probed):
    attention = read_attention(tiny.picture(), probed, layers=(-1,), size=64)
    matrix = attention.chain.to_dense().double()
    seen = attention.class_rows[-1].mean(0).double()
    bounced = torch.linalg.matrix_power(matrix, 3) @ seen
    standing = ((bounced - bounced.mean()) / bounced.std(correction=0) / 2).tanh()
    values = attention.grid.to_map(attention.objectness.double() * (1 + standing))
    large = enlarge(values, **attention.size)
    expected = (large - large.min()) / (large.max() - large.min())
    found = segment_object(attention, bounces=3).soft
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)


def test_where_nothing_is_object_nothing_is_found(probed, probe):
    blind = replace(probed, probe=replace(probe, constant=-9.0))
    result = segment_object(
        read_attention(tiny.picture(), blind, layers=(-1,), size=64)
    )
    assert not result.mask("object").any()
    assert result.confidence == 0
    assert result.objects == 0


def test_the_fit_is_the_ridge_regression_of_shares_on_states(model):
    left, right = [], []
    for picture, mask in examples():
        columns, rows = (side // tiny.PATCH for side in picture.size)
        cells = mask.view(rows, tiny.PATCH, columns, tiny.PATCH).transpose(1, 2)
        cells = cells.flatten(0, 1).flatten(1).numpy()
        known = (cells != 255).sum(1)
        kept = known > 32
        share = (cells == 1).sum(1)[kept] / known[kept]
        states = states_of(model, picture)[kept]
        scale = kept.sum() ** -0.5
        left.append(scale * np.hstack([states, np.ones((len(states), 1))]))
        right.append(scale * share)
    held = np.sqrt(3 * 0.2 / 16) * np.eye(33)[:32]
    system = np.vstack([*left, held])
    expected = np.linalg.lstsq(system, np.concatenate([*right, np.zeros(32)]))[0]
    found = fit_probe(model, examples(), layers=(0, 1), note=NOTE, size=64, penalty=0.2)
    np.testing.assert_allclose(
        found.weights.flatten().numpy(), expected[:-1], atol=1e-4
    )
    assert found.constant == pytest.approx(expected[-1], abs=1e-4)
    assert (found.layers, found.note) == ((0, 1), NOTE)


def test_a_probe_is_written_and_read(probe, tmp_path):
    probe.save(tmp_path / "probe.safetensors")
    found = read_probe(tmp_path / "probe.safetensors")
    assert torch.equal(found.weights, probe.weights)
    assert (found.layers, found.constant, found.note) == ((0, 1), 0.4, NOTE)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_a_file_that_holds_no_probe_is_named(content, tmp_path):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=r"broken\.safetensors"):
        read_probe(path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"weights": torch.zeros(3, 16)}, ShapeError),
        ({"weights": torch.zeros(16)}, ShapeError),
        ({"layers": (0, 0)}, ArgumentError),
        ({"layers": (0, -1)}, ArgumentError),
        ({"layers": (0, 1.5)}, ArgumentError),
        ({"weights": torch.full((2, 16), torch.nan)}, ArgumentError),
        ({"constant": float("inf")}, ArgumentError),
    ],
)
def test_a_probe_that_is_none_is_refused(probe, change, error):
    with pytest.raises(error):
        replace(probe, **change)


def test_a_probe_that_cannot_be_written_is_said(probe, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        probe.save(tmp_path / "missing" / "probe.safetensors")


def test_the_answer_names_what_the_probe_was_fitted_on(probed):
    attention = read_attention(tiny.picture(), probed, layers=(-1,), size=64)
    result = segment_object(attention)
    assert NOTE in result.summary()
    assert result.facts()["probe"] == NOTE


def test_the_packaged_model_has_a_probe():
    found = bundled_probe("dinov2-small-saliency")
    assert found.weights.shape == (len(found.layers), 384)
    assert max(found.layers) < 12
    assert "COCO" in found.note


def test_a_probe_of_another_model_is_refused(model, probe):
    narrow = replace(model, probe=replace(probe, weights=torch.zeros(2, 8)))
    with pytest.raises(ShapeError, match=r"width 8 .* \[16, 16\]"):
        read_attention(tiny.picture(), narrow, size=64)
    deep = replace(model, probe=replace(probe, layers=(0, 5)))
    with pytest.raises(UnsupportedModelError, match="reads layers 0, 5"):
        read_attention(tiny.picture(), deep, size=64)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"examples": []}, ArgumentError, "the 0 examples do not hold both"),
        ({"layers": ()}, UnsupportedModelError, "from 0 on"),
        ({"layers": (0, 0)}, UnsupportedModelError, "name different layers"),
        ({"layers": (-1,)}, UnsupportedModelError, "from 0 on"),
        ({"layers": 1}, ArgumentError, "whole numbers"),
        ({"size": "big"}, ArgumentError, "size"),
        ({"layers": (0, 9)}, UnsupportedModelError, "layers 0, 9"),
        ({"penalty": 0}, ArgumentError, "penalty"),
    ],
)
def test_what_cannot_be_fitted_is_said(model, change, error, words):
    given = {"examples": examples(), "layers": (0,), "note": NOTE, "size": 64} | change
    with pytest.raises(error, match=words):
        fit_probe(model, **given)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (torch.zeros(8, 8, dtype=torch.uint8), ShapeError, r"\(40, 64\)"),
        (torch.full((40, 64), 7), ArgumentError, r"example 1: .* has \[7\]"),
        (np.full((40, 64), 255, np.uint8), ArgumentError, "1 examples .* hold both"),
        (np.pad(np.full((9, 9), 255), ((9, 22), (9, 46))), ArgumentError, "by 255"),
        (np.ones((40, 64), np.uint8), ArgumentError, "hold both"),
    ],
)
def test_masks_that_are_none_are_refused(model, mask, error, words):
    with pytest.raises(error, match=words):
        fit_probe(model, [(tiny.picture(), mask)], layers=(0,), note=NOTE, size=64)
