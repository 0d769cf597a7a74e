"""A small network that says for every pixel which garment it sees, and in which colour.

It never saw the words. Trained on composed pictures, all pairs of garment and colour
among them, with the exact masks; it tells whether a sampled picture shows what was
asked for, and gives the features that samples are scored in.

    python benchmarks/words/judge.py --data FOLDER --out judge.safetensors
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from garments import (
    COLOURS,
    DEFAULT_FOLDER,
    NAMES,
    SIDE,
    Composition,
    Wardrobe,
    compose,
)
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

JUDGE = Path(__file__).parent / "judge.safetensors"
LEAST_PIXELS = 20
"""Smaller regions are no garment."""


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class Judge(nn.Module):
    """Three levels down and up again; the lowest, averaged, are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 32), _block(32, 64)])
        self.up = nn.ModuleList([_block(96, 32), _block(48, 24)])
        self.garment = nn.Conv2d(24, len(NAMES) + 1, 1)
        self.colour = nn.Conv2d(24, len(COLOURS) + 1, 1)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features (b, 64) of pictures (b, 3, 32, 32) in [0, 1]."""
        return self._levels(pictures)[-1].mean((2, 3))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of garments and of colours, the last of each for the ground."""
        fine, middle, x = self._levels(pictures)
        for block, level in zip(self.up, (middle, fine), strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0), level], 1))
        return self.garment(x), self.colour(x)

    def _levels(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.down[0](2 * pictures - 1)]
        for block in self.down[1:]:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        return levels


@dataclass(frozen=True)
class Seen:
    """A region that is one garment in one colour; `mask` is (32, 32)."""

    garment: int
    colour: int
    mask: np.ndarray


def load_judge(path: Path) -> Judge:
    judge = Judge().eval()
    judge.load_state_dict(load_file(path))
    return judge


@torch.no_grad()
def seen_in(judge: Judge, pictures: torch.Tensor) -> list[list[Seen]]:
    """What is on pictures (b, 3, 32, 32) in [0, 1]."""
    garments, colours = (scores.argmax(1).numpy() for scores in judge(pictures))
    return [_regions(g, c) for g, c in zip(garments, colours, strict=True)]


def _regions(garments: np.ndarray, colours: np.ndarray) -> list[Seen]:
    found = []
    for garment in range(len(NAMES)):
        for colour in range(len(COLOURS)):
            parts, count = ndimage.label((garments == garment) & (colours == colour))
            for number in range(1, count + 1):
                mask = parts == number
                if mask.sum() >= LEAST_PIXELS:
                    found.append(Seen(garment, colour, mask))
    return found


def answers(found: list[Composition]) -> tuple[torch.Tensor, torch.Tensor]:
    """Garment and colour of every pixel (b, 32, 32)."""
    shape = (len(found), SIDE, SIDE)
    garments, colours = np.full(shape, len(NAMES)), np.full(shape, len(COLOURS))
    for row, composition in enumerate(found):
        for thing in composition.things:
            garments[row][thing.mask] = thing.garment
            colours[row][thing.mask] = thing.colour
    return torch.from_numpy(garments), torch.from_numpy(colours)


def pixels_of(found: list[Composition]) -> torch.Tensor:
    """Pictures (b, 3, 32, 32) in [0, 1]."""
    stacked = np.stack([composition.picture for composition in found])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _batch(wardrobe: Wardrobe, *seed: int, size: int = 64) -> list[Composition]:
    return [compose(wardrobe, (*seed, n), unseen=n % 4 == 0) for n in range(size)]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    wardrobe, judge = Wardrobe(args.data, "train"), Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, args.steps)
    began = time.process_time()
    for step in range(args.steps):
        found = _batch(wardrobe, 7, step)
        pixels = pixels_of(found)
        noisy = pixels + 0.03 * torch.rand(len(pixels), 1, 1, 1) * torch.randn(
            pixels.shape
        )
        loss = sum(
            cross_entropy(scores, truth)
            for scores, truth in zip(judge(noisy), answers(found), strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(
                step,
                round(float(loss.detach()), 4),
                round(time.process_time() - began),
                flush=True,
            )
    judge.eval()
    save_file(judge.state_dict(), args.out)
    print(agreement(judge, Wardrobe(args.data, "t10k")))


@torch.no_grad()
def agreement(judge: Judge, wardrobe: Wardrobe, batches: int = 16) -> dict[str, float]:
    """On held-out garments: pixels of garments named rightly, and things found."""
    right, things = [], []
    for number in range(batches):
        found = _batch(wardrobe, 8, number)
        garments, colours = answers(found)
        named = [scores.argmax(1) for scores in judge(pixels_of(found))]
        on = garments < len(NAMES)
        right.append(
            ((named[0] == garments) & (named[1] == colours))[on].float().mean()
        )
        for composition, seen in zip(
            found, seen_in(judge, pixels_of(found)), strict=True
        ):
            have = {(one.garment, one.colour) for one in seen}
            things += [(t.garment, t.colour) in have for t in composition.things]
    return {
        "pixels": float(torch.stack(right).mean()),
        "things": float(np.mean(things)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("judge.safetensors"))
    parser.add_argument("--steps", type=int, default=1200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train(given)
