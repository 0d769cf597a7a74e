"""Learns a model from pictures, and measures what each prefix carries."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_fraction, check_number, check_positive, check_whole
from attnchain.errors import ArgumentError, ConvergenceError
from attnchain.nested.model import NestedTokens
from attnchain.nested.prefixes import draw_keeps
from attnchain.resuming import load_state, save_state

REPORT = 100
"""Steps between two entries of the history, and between two checkpoints."""
_WARM_UP = 100
_AT_A_TIME = 500


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Args:
        steps: Optimiser steps.
        batch_size: Pictures in a step.
        learning_rate: Of AdamW at its peak, after 100 steps; falls to 0 by a cosine.
        nested: Keep a random prefix; False keeps all tokens, for comparison.
        drop: Share of pictures whose tokens are all dropped.
        flow: Noise of all strengths; False only t = 1, where the decoder is a plain
            regression on the tokens, for comparison.
        seed: Of pictures, prefixes and noise; the model is given as it is.

    Raises:
        ArgumentError: A setting is out of range.
    """

    steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 2e-3
    nested: bool = True
    drop: float = 0.1
    flow: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self.steps, "steps")
        check_whole(self.batch_size, "batch_size")
        check_positive(self.learning_rate, "learning_rate")
        check_number(self.drop, "drop")
        check_fraction(self.drop, "drop", zero=True)
        check_whole(self.seed, "seed", least=0)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < _WARM_UP:
            return self.learning_rate * (step + 1) / _WARM_UP
        done = (step - _WARM_UP) / max(1, self.steps - _WARM_UP)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: NestedTokens,
    pictures: Float[Tensor, "m colors size size"],
    settings: TrainingSettings | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> list[float]:
    """Trains a model in place.

    The same start, seed and steps give the same weights, after an interruption too.

    Args:
        model: What to train.
        pictures: Pixels in [-1, 1].
        settings: How to train.
        checkpoint: File to resume from and to write every 100 steps.
        progress: Show a bar.

    Returns:
        Mean loss of every 100 steps.

    Raises:
        ShapeError: Pictures do not fit the model.
        ArgumentError: A pixel is not finite or outside [-1, 1], there is no picture,
            or the checkpoint was made with other settings.
        ConvergenceError: The loss is no longer a number; carries the history.
    """
    settings = settings or TrainingSettings()
    model.check_pictures(pictures)
    if len(pictures) == 0:
        raise ArgumentError("there are no pictures to learn from")
    run = _Run(model, settings, None if checkpoint is None else Path(checkpoint))
    steps = run.advance(pictures)
    model.train()
    for _ in _shown(steps, settings.steps - run.step) if progress else steps:
        pass
    model.eval()
    return run.history


class _Run:
    """A training between two steps."""

    def __init__(
        self, model: NestedTokens, settings: TrainingSettings, checkpoint: Path | None
    ) -> None:
        self.model, self.settings, self.checkpoint = model, settings, checkpoint
        self.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        self.step, self.total = 0, 0.0
        self.history: list[float] = []
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def advance(self, pictures: Tensor) -> Iterator[int]:
        """Makes the steps that are left."""
        while self.step < self.settings.steps:
            self.total += self._learn(pictures)
            self.step += 1
            last = self.step == self.settings.steps
            if self.step % REPORT == 0 or last:
                self.history.append(self.total / ((self.step - 1) % REPORT + 1))
                self.total = 0.0
                if self.checkpoint is not None:
                    self._save(self.checkpoint)
            yield self.step

    def _learn(self, pictures: Tensor) -> float:
        s, rows = self.settings, self.settings.batch_size
        generator = torch.Generator().manual_seed(s.seed * 10_000_019 + self.step)
        chosen = torch.randint(len(pictures), (rows,), generator=generator)
        tokens = self.model.config.tokens
        keep = draw_keeps(rows, tokens, generator, nested=s.nested, drop=s.drop)
        t, noise = _noise(rows, self.model, generator)
        t = t if s.flow else torch.ones_like(t)
        batch = pictures[chosen].to(t.device)
        loss = self.model.errors(batch, keep, t, noise).mean()
        if not bool(loss.isfinite()):
            message = (
                f"the loss became {float(loss.detach())} in step {self.step + 1}; use "
                f"a learning_rate below {s.learning_rate:g}"
            )
            raise ConvergenceError(message, self.history)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(self.step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _described(self) -> dict[str, object]:
        return {**asdict(self.settings), **asdict(self.model.config)}

    def _save(self, checkpoint: Path) -> None:
        state = {
            "step": self.step,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(checkpoint, self._described(), state)

    def _resume(self, checkpoint: Path) -> None:
        state = load_state(checkpoint, self._described())
        self.step, self.history = state["step"], state["history"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def prefix_losses(
    model: NestedTokens,
    pictures: Float[Tensor, "m colors size size"],
    *,
    seed: int = 0,
) -> Float[Tensor, " K+1"]:
    """L(0), ..., L(K): the loss given no token, one token, ..., all of them.

    The mean of `NestedTokens.errors`, noise of all strengths, the same for every
    prefix, so that differences between prefixes are paired.

    Args:
        model: A trained model.
        pictures: Pictures it was not trained on, pixels in [-1, 1].
        seed: Of the noise.

    Raises:
        ShapeError: Pictures do not fit the model.
        ArgumentError: A pixel is not finite or outside [-1, 1], or there is no picture.
    """
    model.check_pictures(pictures)
    if len(pictures) == 0:
        raise ArgumentError("there are no pictures to measure the loss on")
    generator = torch.Generator().manual_seed(seed)
    totals = torch.zeros(model.config.tokens + 1, dtype=torch.float64)
    for part in pictures.split(_AT_A_TIME):
        t, noise = _noise(len(part), model, generator)
        for keep in range(len(totals)):
            totals[keep] += float(model.errors(part.to(t.device), keep, t, noise).sum())
    return totals / len(pictures)


def _noise(
    rows: int, model: NestedTokens, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Strengths in (0, 1] and noise, where the model is."""
    t = 1 - torch.rand(rows, generator=generator)
    noise = torch.randn((rows, *model.config.shape), generator=generator)
    return t.to(model.null.device), noise.to(model.null.device)


def _shown(steps: Iterator[int], total: int) -> Iterator[int]:
    from rich.progress import track

    yield from track(steps, "learning", total=total)
