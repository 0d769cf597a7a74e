"""Pictures with nothing in them are said to be so, and no other ones."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.vision import tiny

from attnchain.vision import read_attention, segment
from attnchain.vision.contents import nothing_in

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.png"))


def noise(width, height, *, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_jpeg(picture, quality):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def checkers(side):
    tiles = np.indices((96, 96)).sum(0) // side % 2
    return Image.fromarray((tiles * 255).astype(np.uint8))


EMPTY = {
    "one pixel": lambda: Image.new("RGB", (1, 1), "red"),
    "one colour": lambda: Image.new("RGB", (90, 60), (9, 8, 7)),
    "black": lambda: Image.new("L", (90, 60)),
    "clear": lambda: Image.merge(
        "RGBA", (*noise(90, 60).split(), Image.new("L", (90, 60)))
    ),
    "noise": lambda: noise(160, 120),
    "large noise": lambda: noise(700, 500),
    "compressed noise": lambda: as_jpeg(noise(320, 240), 75),
    "enlarged noise": lambda: noise(200, 150).resize((300, 225)),
    "bilevel noise": lambda: noise(160, 120).convert("L").point(lambda v: v > 127, "1"),
    "checkers": lambda: checkers(1),
}


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY.keys())
def test_nothing_is_in_it(make):
    assert "can be told apart" in nothing_in(make(), rows=9, columns=12)


def halves(strength):
    """Noise whose right half has another mean."""
    pixels = np.asarray(noise(160, 120)).astype(int) // 4
    pixels[:, 80:] += strength
    return Image.fromarray(pixels.astype(np.uint8))


def contrasts():
    """Grey of one mean, its right half of another contrast."""
    pixels = np.asarray(noise(160, 120)).astype(int) - 128
    pixels[:, 80:] //= 4
    return Image.fromarray((pixels + 128).astype(np.uint8))


FULL = {
    "halves": lambda: halves(20),
    "contrasts": contrasts,
    "mosaic": tiny.picture,
    "gradient": lambda: Image.linear_gradient("L"),
    "dithered": lambda: Image.open(EXAMPLES[0]).convert("1"),
} | {path.name: lambda path=path: Image.open(path) for path in EXAMPLES}


@pytest.mark.parametrize("make", FULL.values(), ids=FULL.keys())
def test_something_is_in_it(make):
    assert nothing_in(make(), rows=9, columns=12) is None


@pytest.mark.parametrize("options", [{}, {"point": (5, 5)}], ids=["sets", "point"])
def test_answers_say_it_and_stay_silent_otherwise(tmp_path, options):
    model = tiny.torch_only()
    for picture, many in ((noise(160, 120), 1), (tiny.picture(), 0)):
        found = segment(picture, model=model, layers=[0], size=64, **options)
        assert found.summary().count("can be told apart") == many
        assert len(found.facts()["notes"]) == many
        read = read_attention(picture, model, size=64)
        assert read.summary().count("can be told apart") == many
