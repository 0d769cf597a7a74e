"""Captures as files and as long tables."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attnchain import readouts
from attnchain.capturing import (
    capture,
    load_capture,
)
from attnchain.errors import ArgumentError, CaptureError, OutputError, ShapeError
from attnchain.testing.models import text, vision


def captured(build, **options):
    tiny = build()
    with capture(tiny.model, **options) as attention:
        tiny.run()
    return attention


FAMILIES = [text.llama_padded, text.whisper, vision.swin, vision.dinov2]


@pytest.mark.parametrize("keep", ["qk", "dense"])
@pytest.mark.parametrize("build", FAMILIES, ids=lambda f: f.__name__)
def test_a_capture_comes_back_as_it_was(build, keep, tmp_path):
    before = captured(build, keep=keep)
    after = load_capture(before.save(tmp_path / "x.safetensors"))
    assert repr(after) == repr(before)
    assert after.n_layers == before.n_layers
    assert (after.n_forwards, after.n_steps) == (before.n_forwards, before.n_steps)
    assert after.nbytes == before.nbytes
    for one, other in zip(before, after, strict=True):
        assert (one.site, one.causal, one.shape) == (
            other.site,
            other.causal,
            other.shape,
        )
        assert one.layout == other.layout
        assert torch.equal(one.live, other.live)
        assert torch.equal(one.probabilities(), other.probabilities())


def test_files_are_new_and_whole(tmp_path):
    attention = captured(text.llama)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        attention.save(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"
    with pytest.raises(OutputError, match="no folder"):
        attention.save(tmp_path / "none" / "x")


def test_what_is_no_capture_is_named(tmp_path):
    with pytest.raises(CaptureError, match="cannot be read"):
        load_capture(tmp_path / "none")
    (tmp_path / "text").write_text("text")
    with pytest.raises(CaptureError, match="cannot be read"):
        load_capture(tmp_path / "text")
    save_file({"x": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(CaptureError, match="holds no capture"):
        load_capture(tmp_path / "other")
    whole = captured(text.llama).save(tmp_path / "whole")
    (tmp_path / "half").write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(CaptureError, match="cannot be read"):
        load_capture(tmp_path / "half")


def test_gradients_cannot_be_saved(tmp_path):
    attention = captured(text.llama, gradients=True)
    with pytest.raises(CaptureError, match="gradients"):
        attention.save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_each_layer():
    shown = captured(text.llama)._repr_html_()
    assert shown.count("<tr>") == 1 + 2
    assert "self layer 1" in shown


# Tables


def entropy(chain):
    return readouts.row_entropy(chain).mean(-1)


def test_a_table_has_a_row_for_each_head():
    attention = captured(text.llama)
    table = attention.table([entropy])
    assert list(table) == ["layer", "input", "head", "entropy"]
    for layer, given, head, value in zip(*table.values(), strict=True):
        matrix = attention[int(layer)].probabilities()[int(given), int(head)].double()
        expected = torch.special.entr(matrix).sum(-1).mean()
        assert value == pytest.approx(float(expected), abs=1e-5)
    assert len(table["layer"]) == np.prod([len(attention), *attention[0].shape[:2]])


def test_a_table_of_tokens_has_no_rows_of_padding():
    attention = captured(text.llama_padded)
    table = attention.table({"H": readouts.row_entropy, "mean": entropy}, layers=[1])
    live = attention[1].live
    heads = attention[1].shape[1]
    assert len(table["token"]) == int(live.sum()) * heads
    assert set(table["layer"]) == {1}
    assert all(live[i, t] for i, t in zip(table["input"], table["token"], strict=True))
    first = (table["input"] == 0) & (table["head"] == 0)
    assert len(set(table["mean"][first])) == 1
    assert len(set(table["H"][first])) > 1


def test_tables_refuse_what_does_not_fit():
    attention = captured(text.llama)
    with pytest.raises(ArgumentError, match="lambda"):
        attention.table([lambda chain: chain.diagonal()])
    with pytest.raises(ArgumentError, match="head"):
        attention.table({"head": entropy})
    with pytest.raises(ArgumentError, match="none"):
        attention.table([])
    with pytest.raises(ShapeError, match="one number for each head"):
        attention.table({"x": lambda chain: torch.ones(3)})
