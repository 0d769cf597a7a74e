"""What every segmentation promises, whatever made it."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from attnchain.errors import ArgumentError
from attnchain.vision import Segmentation


def assert_keeps_promises(result, folder):
    """Names, masks, figure, words and files of one result agree with its labels."""
    assert isinstance(result, Segmentation)
    assert result.maps.shape[1:] == result.labels.shape
    assert len(result.names) == len(set(result.names)) == len(result.legend)
    masks = torch.stack([result.mask(name) for name in result.names])
    assert bool((masks.sum(0) == 1).all())
    assert torch.equal(masks.int().argmax(0), result.labels)
    with pytest.raises(ArgumentError, match="no segment 'cow'; there are"):
        result.mask("cow")
    assert_figure(result)
    assert_words(result)
    assert_files(result, folder)


def assert_figure(result):
    figure = result.plot()
    assert isinstance(figure, Figure)
    assert figure is not result.plot()
    last = [ax for ax in figure.axes if ax.get_title()][-1]
    assert last.get_title() == result.title
    legend = [text.get_text() for text in last.get_legend().get_texts()]
    assert legend == list(result.legend)
    assert last.images[0].get_array().shape[:2] == result.labels.shape


def assert_words(result):
    first, *others = result.summary().splitlines()
    assert first == result.heading
    for name, line in zip(result.names, others[-len(result.names) :], strict=True):
        assert line.startswith(f"{name}: ")


def assert_files(result, folder):
    files = {file.name: file for file in result.save(folder / "new", stem="it")}
    assert {"it.json", "it-figure.png", "it-segments.png"} <= set(files)
    with Image.open(files["it-segments.png"]) as stored:
        assert np.array_equal(np.asarray(stored), result.labels.numpy())
    facts = json.loads(files["it.json"].read_text("utf-8"))
    assert facts["mode"] == result.kind
    assert facts["names"] == list(result.names)
    assert sum(facts["areas"]) == pytest.approx(1)
    for name, area in zip(result.names, facts["areas"], strict=True):
        assert area == pytest.approx(float(result.mask(name).double().mean()))
    assert sorted(facts["files"]) == sorted(map(str, files.values()))
