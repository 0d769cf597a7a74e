"""Objects followed through frames: the walk back, its borders and its refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vision import tiny

from attnchain.errors import ArgumentError, GridError, ImageError, UnsupportedModelError
from attnchain.vision import Prompt, begin_track, segment, segment_video
from attnchain.vision.frame_walk import read_tokens

WIDTH, HEIGHT = 64, 40
ROWS, COLUMNS = 5, 8


def frame(seed):
    """Patches of random colours, so that every patch is another one."""
    colours = np.random.default_rng(seed).integers(0, 256, (ROWS, COLUMNS, 3))
    return Image.fromarray(np.kron(colours, np.ones((8, 8, 1))).astype(np.uint8))


def moved(columns):
    """The frame of one seed with a block of it moved to the right by whole patches."""
    colours = np.array(frame(0))
    block = np.array(frame(7))[8:24, 8:24]
    left = 8 + 8 * columns
    colours[8:24, left : left + 16] = block
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.long)
    labels[8:24, left : left + 16] = 1
    return Image.fromarray(colours), labels


def absorbed(tokens, labels, names):
    """Where walks back end: the absorbing chain over all frames, solved at once."""
    n, count = ROWS * COLUMNS, len(tokens)
    row, column = np.divmod(np.arange(n), COLUMNS)
    apart = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))
    steps = np.zeros((count * n, count * n))
    for t in range(1, count):
        context = sorted({0, *range(max(0, t - 7), t)})
        weights = np.zeros((n, count * n))
        for s in context:
            cosine = tokens[t] @ tokens[s].T
            weights[:, s * n : (s + 1) * n] = np.where(
                apart <= 0.3 * COLUMNS, np.exp((cosine - 1) / 0.02), 0
            )
        steps[t * n : (t + 1) * n] = weights / weights.sum(1, keepdims=True)
    shares = np.stack(
        [
            (labels == k).reshape(ROWS, 8, COLUMNS, 8).mean((1, 3)).ravel()
            for k in range(names)
        ],
        axis=1,
    )
    rest = steps[n:, n:]
    return np.linalg.solve(np.eye(len(rest)) - rest, steps[n:, :n] @ shares)


def test_memberships_are_where_walks_back_to_the_first_frame_end(model):
    frames = [frame(seed) for seed in range(10)]
    labels = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH) // 7 % 3
    track = begin_track(frames[0], model, labels=labels, size=64)
    found = []
    for later in frames[1:]:
        track = track.follow(later)
        found.append(track.current.memberships)
    tokens = [read_tokens(f, model, size=64)[0].double().numpy() for f in frames]
    expected = absorbed(tokens, labels.numpy(), 3)
    np.testing.assert_allclose(torch.cat(found), expected, atol=1e-5)


def test_an_object_keeps_its_label_where_it_goes(model):
    first, labels = moved(0)
    track = begin_track(first, model, labels=labels, size=64)
    for columns in (1, 2, 3, 4):
        picture, wanted = moved(columns)
        track = track.follow(picture)
        found = track.current.labels == 1
        both, either = (found & (wanted == 1)).sum(), (found | (wanted == 1)).sum()
        assert both / either > 0.5  # unmoved: 1/3, then nothing
    assert track.current.number == 4
    assert track.current.lost == ()


def test_the_first_frame_is_given_back_as_it_was(model):
    picture, labels = moved(0)
    found = next(segment_video([picture], model=model, labels=labels, size=64))
    assert torch.equal(found.labels, labels)
    assert found.names == ("rest", "object")
    assert found.maps.shape == (2, HEIGHT, WIDTH)
    torch.testing.assert_close(found.maps.sum(0), torch.ones(HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("asked", "alone"),
    [
        ({"prompt": Prompt(points=((20, 12),))}, {"point": (20, 12)}),
        ({"sets": 3}, {"sets": 3}),
        ({"sets": "auto"}, {}),
        ({}, {"foreground": True}),
    ],
)
def test_what_the_first_frame_shows_is_followed(model, asked, alone):
    frames = [moved(columns)[0] for columns in range(3)]
    found = list(segment_video(frames, model=model, size=64, **asked))
    assert [each.number for each in found] == [0, 1, 2]
    names = segment(frames[0], model=model, **alone).names
    assert {each.names for each in found} == {names}
    assert found[2].picture.size == (WIDTH, HEIGHT)


def test_several_objects_share_no_pixel_and_may_be_lost(model):
    picture, labels = moved(0)
    labels[24:] = 3
    found = next(segment_video([picture], model=model, labels=labels, size=64))
    assert found.names == ("rest", "object 1", "object 2", "object 3")
    assert found.lost == ("object 2",)
    assert found.remarks == ["object 2 is not seen in this frame"]
    assert "object 2 is not seen" in found.summary()
    assert found.facts()["lost"] == ("object 2",)


def test_it_is_saved_in_every_form(model, tmp_path):
    found = next(segment_video([moved(0)[0]], model=model, size=64))
    forms = ("labels", "figure", "cutout", "overlay", "polygons")
    assert len(found.save(tmp_path, stem="a", files=forms)) == len(forms) + 1


def test_bad_frames_and_labels_are_refused(model):
    picture, labels = moved(0)
    track = begin_track(picture, model, labels=labels, size=64)
    with pytest.raises(ImageError, match=r"frame 1 has \(32, 40\)"):
        track.follow(picture.resize((32, 40)))
    with pytest.raises(ImageError, match="expected a Pillow picture"):
        track.follow("frame.png")
    with pytest.raises(ArgumentError, match="0 to 1, each"):
        begin_track(picture, model, labels=labels * 2, names=("a", "b"), size=64)
    with pytest.raises(ArgumentError, match="float32"):
        begin_track(picture, model, labels=labels.float(), size=64)
    with pytest.raises(ArgumentError, match=r"size \(40, 64\)"):
        begin_track(picture, model, labels=labels[1:], size=64)
    with pytest.raises(ArgumentError, match="reach from 0 to 300"):
        begin_track(picture, model, labels=labels * 300, size=64)
    with pytest.raises(GridError):
        begin_track(picture, model, labels=labels, size=4)
    with pytest.raises(UnsupportedModelError, match="stack of layers"):
        begin_track(picture, tiny.torch_only(), labels=labels, size=64)


def test_exclusive_options_and_no_frame_are_refused(model):
    picture, labels = moved(0)
    with pytest.raises(ArgumentError, match="labels and sets"):
        next(segment_video([picture], model=model, labels=labels, sets=3))
    with pytest.raises(ArgumentError, match="no frame"):
        next(segment_video([], model=model))
