"""Pictures of coloured garments, the words that name them, and exact masks.

Garments are those of Fashion-MNIST, 11 to 16 pixels large, pasted on a textured ground
of 32 x 32 pixels; later ones may hide parts of earlier ones. Six colours of equal
lightness, and grey, so that a grey copy tells shape and nothing of the colour. Every
picture follows from its seed alone.
"""

import colorsys
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

sys.path.insert(0, str(Path(__file__).parents[1] / "guidance"))
import data

DEFAULT_FOLDER = data.DEFAULT_FOLDER
SIDE = 32
SIZES = range(11, 17)
GARMENTS = {
    "shirt": 0,
    "trousers": 1,
    "pullover": 2,
    "dress": 3,
    "sandal": 5,
    "sneaker": 7,
    "bag": 8,
    "boot": 9,
}
"""Words and their classes; coat and the second kind of shirt look like pullovers."""
HUES = ("red", "yellow", "green", "cyan", "blue", "purple")
COLOURS = (*HUES, "grey")
GROUNDS = ("stripes", "checks", "dots", "plain")
NAMES = tuple(GARMENTS)
UNSEEN = frozenset((n, (2 * n + k) % 6) for n in range(len(NAMES)) for k in (0, 3))
"""Garment and hue, by number, that training never shows together; a third of all."""
VISIBLE = 0.6
"""Least share of a garment that later ones leave to be seen."""
CUT = 0.15


@dataclass(frozen=True)
class Thing:
    """One garment of a picture; `mask` (32, 32) is what is seen of it."""

    garment: int
    colour: int
    mask: np.ndarray = field(repr=False)

    @property
    def words(self) -> str:
        return f"{COLOURS[self.colour]} {NAMES[self.garment]}"


@dataclass(frozen=True)
class Composition:
    """A picture (32, 32, 3) in [0, 1], what is on it, and its prompt."""

    picture: np.ndarray = field(repr=False)
    things: tuple[Thing, ...]
    ground: str
    prompt: str

    @property
    def grey(self) -> np.ndarray:
        """The same without colour."""
        return np.repeat(self.picture.mean(-1, keepdims=True), 3, -1)


class Wardrobe:
    """All garments of a part of Fashion-MNIST at all sizes.

    Args:
        folder: Where its IDX files are.
        part: "train" or "t10k".
        most: Pictures of a class that are used.
    """

    def __init__(self, folder: Path, part: str, most: int = 6000) -> None:
        pixels = data.read_idx(folder, f"{part}-images-idx3-ubyte")
        labels = data.read_idx(folder, f"{part}-labels-idx1-ubyte")
        self.shelves = [
            self._sized(pixels[labels == label][:most]) for label in GARMENTS.values()
        ]

    @staticmethod
    def _sized(pixels: np.ndarray) -> dict[int, np.ndarray]:
        large = torch.from_numpy(pixels.copy())[:, None].float() / 255
        return {
            size: interpolate(large, (size, size), mode="bilinear", antialias=True)
            .clamp(0, 1)
            .mul(255)
            .byte()[:, 0]
            .numpy()
            for size in SIZES
        }

    def take(self, garment: int, rng: np.random.Generator) -> np.ndarray:
        """A garment (size, size) in [0, 1], of random size, perhaps mirrored."""
        shelf = self.shelves[garment][int(rng.choice(SIZES))]
        found = shelf[rng.integers(len(shelf))].astype(np.float32) / 255
        return found[:, ::-1] if rng.random() < 0.5 else found


def rgb(light: np.ndarray, hue: float, strength: np.ndarray) -> np.ndarray:
    """Colours of the given mean (lightness) and distance from grey, in [0, 1]."""
    colour = np.array(colorsys.hsv_to_rgb(hue, 1, 1), np.float32)
    colour -= colour.mean()
    colour /= np.linalg.norm(colour)
    return light[..., None] + strength[..., None] * colour


def _ground(kind: str, rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    period, shift = int(rng.integers(4, 8)), int(rng.integers(8))
    half = period / 2
    if kind == "stripes":
        along = columns if rng.random() < 0.5 else rows
        pattern = (along + shift) % period < half
    elif kind == "checks":
        pattern = ((rows + shift) % period < half) ^ ((columns + shift) % period < half)
    elif kind == "dots":
        away = (np.minimum((rows + shift) % period, 3) - 1.5) ** 2
        away = away + (np.minimum((columns + shift) % period, 3) - 1.5) ** 2
        pattern = away < 1.5
    else:
        pattern = np.zeros((SIDE, SIDE), bool)
    light = rng.uniform(0.12, 0.3) + rng.uniform(0.06, 0.14) * pattern
    light = light + 0.02 * rng.standard_normal((SIDE, SIDE))
    strength = np.full((SIDE, SIDE), rng.uniform(0, 0.06), np.float32)
    return rgb(light.astype(np.float32), rng.random(), strength)


def _pairs(
    rng: np.random.Generator, count: int, *, unseen: bool
) -> list[tuple[int, int]]:
    """Garment and colour of each thing; no two the same pair."""
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count:
        pair = int(rng.integers(len(NAMES))), int(rng.integers(len(COLOURS)))
        if pair not in chosen and (pair in UNSEEN) == unseen:
            chosen.append(pair)
    return chosen


def compose(
    wardrobe: Wardrobe,
    seed: object,
    *,
    count: int | None = None,
    unseen: bool = False,
    distinct: bool = False,
    named: bool = True,
) -> Composition:
    """A picture from a seed.

    Args:
        wardrobe: Garments to choose from.
        seed: Of `numpy.random.default_rng`.
        count: Number of garments; 1 to 4 by default.
        unseen: Pairs of garment and hue that training never shows, or only others.
        distinct: No two garments of one kind and no two of one colour.
        named: The prompt names every colour, or leaves some words out as training does.
    """
    rng = np.random.default_rng(seed)
    wanted = count or int(rng.choice([1, 2, 3, 4], p=[0.2, 0.4, 0.3, 0.1]))
    pairs = _pairs(rng, wanted, unseen=unseen)
    while distinct and any(len(set(one)) < wanted for one in zip(*pairs, strict=True)):
        pairs = _pairs(rng, wanted, unseen=unseen)
    kind = str(rng.choice(GROUNDS))
    picture, masks = _ground(kind, rng), []
    for garment, colour in pairs:
        hue = None if COLOURS[colour] == "grey" else colour / len(HUES)
        picture, masks = _pasted(picture, masks, wardrobe.take(garment, rng), hue, rng)
    things = [Thing(*pair, mask) for pair, mask in zip(pairs, masks, strict=True)]
    order = rng.permutation(len(things))
    things = tuple(things[n] for n in order)
    prompt = _prompt(things, kind, rng, bare=0.0 if named else 0.05)
    return Composition(picture.clip(0, 1).astype(np.float32), things, kind, prompt)


def _pasted(
    picture: np.ndarray,
    masks: list[np.ndarray],
    garment: np.ndarray,
    hue: float | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A garment put where enough of all others stays visible."""
    size, best = len(garment), (-1.0, 0, 0)
    inside = garment > CUT
    for _ in range(12):
        y, x = (int(n) for n in rng.integers(0, SIDE - size + 1, 2))
        under = [m[y : y + size, x : x + size] & inside for m in masks]
        left = [1 - u.sum() / m.sum() for u, m in zip(under, masks, strict=True)]
        least = min(left, default=1.0)
        best = max(best, (least, y, x))
        if least >= VISIBLE + 0.25:
            break
    _, y, x = best
    place = np.zeros((SIDE, SIDE), bool)
    place[y : y + size, x : x + size] = inside
    strength = (0.0 if hue is None else 0.42) * (0.5 + 0.5 * garment)
    shade = (hue or 0.0) + rng.uniform(-0.02, 0.02)
    painted = rgb(0.36 + 0.26 * garment, shade, strength.astype(np.float32))
    picture = picture.copy()
    picture[place] = painted[inside]
    return picture, [*(m & ~place for m in masks), place]


def _prompt(
    things: tuple[Thing, ...], kind: str, rng: np.random.Generator, bare: float
) -> str:
    words = [NAMES[t.garment] if rng.random() < bare else t.words for t in things]
    tail = f" on {kind}" if rng.random() < 0.5 else ""
    return ", ".join(words) + tail
