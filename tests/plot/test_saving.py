"""Labels, maps and figures as files."""

import numpy as np
import torch
from PIL import Image

from attnchain.plot import save_figure, save_labels, save_map


def test_labels_are_stored_as_they_are(tmp_path):
    labels = torch.arange(256).reshape(8, 32)
    save_labels(labels, tmp_path / "labels.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), labels)


def test_maps_are_stored_in_grey(tmp_path):
    values = torch.linspace(0, 1, 256).reshape(16, 16)
    save_map(values, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as stored:
        assert stored.mode == "L"
        assert np.array_equal(np.asarray(stored).flatten(), np.arange(256))


def test_axes_are_saved_with_their_figure(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    for drawn in (figure, figure.add_subplot()):
        save_figure(drawn, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as stored:
            assert stored.size == (220, 110)
