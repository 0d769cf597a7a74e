"""Labels, maps and figures as files."""

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from attnchain.errors import ArgumentError
from attnchain.plot import new_figure, plot_heads, save_figure, save_labels, save_map


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


@pytest.mark.parametrize("width", [3.25, 6.75])
def test_figures_fit_a_column_of_a_paper_and_stay_as_they_were(tmp_path, width):
    figure = plot_heads(torch.rand(4, 3), (0, 1, 2, 3)).get_figure()
    before = [text.get_fontsize() for text in figure.findobj(Text)]
    save_figure(figure, tmp_path / "paper.png", width=width)
    with Image.open(tmp_path / "paper.png") as stored:
        assert stored.size == (round(300 * width), round(300 * width))
        assert stored.info["dpi"][0] == pytest.approx(300, abs=0.1)
    assert figure.get_size_inches().tolist() == [5, 5]
    assert [text.get_fontsize() for text in figure.findobj(Text)] == before


def test_no_text_in_print_is_larger_than_8_points(tmp_path, monkeypatch):
    seen = []
    figure = plot_heads(torch.rand(2, 2), (0, 1)).get_figure()
    monkeypatch.setattr(
        figure,
        "savefig",
        lambda *_, **__: seen.extend(t.get_fontsize() for t in figure.findobj(Text)),
    )
    save_figure(figure, tmp_path / "paper.pdf", width=3.25)
    assert max(seen) == 8
    assert max(t.get_fontsize() for t in figure.findobj(Text)) > 8


@pytest.mark.parametrize("width", [0, -1, "column", float("nan")])
def test_a_width_is_a_number(tmp_path, width):
    with pytest.raises(ArgumentError, match="width"):
        save_figure(new_figure(2, 2), tmp_path / "figure.png", width=width)
    assert not (tmp_path / "figure.png").exists()


def test_panels_too_narrow_to_read_are_refused(tmp_path):
    figure = new_figure(9, 3)
    figure.subplots(1, 3)
    with pytest.raises(ArgumentError, match=r"at least 4\.8 inches for 3 panels"):
        save_figure(figure, tmp_path / "figure.png", width=3.25)
    save_figure(figure, tmp_path / "figure.png", width=6.75)
