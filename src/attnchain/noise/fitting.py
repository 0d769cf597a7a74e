"""Trains a classifier and the transition of its labels' noise together."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnchain.checks import check_fraction, check_number, check_positive, check_whole
from attnchain.errors import ArgumentError, ConvergenceError
from attnchain.noise.label_noise import noisy_label_loss
from attnchain.resuming import load_state, save_state

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Settings:
    """How to train; the values of the paper where it names them.

    Attributes:
        volume_weight: Weight of ln det T, in nats.
        epochs: Passes over the examples.
        batch_size: Examples in a step.
        learning_rate: Of the classifier, by stochastic gradient descent.
        momentum: Of the same.
        weight_decay: Of the same.
        transition_rate: Learning rate of the transition, by Adam.
        validation: Share of the examples held out, with their noisy labels, to choose
            the epoch by; 0 keeps the last one.
        seed: Of the split and the order of the examples.
    """

    volume_weight: float = 1e-4
    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    transition_rate: float = 0.01
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self.epochs, "epochs")
        check_whole(self.batch_size, "batch_size")
        for name in ("learning_rate", "transition_rate"):
            check_positive(getattr(self, name), name)
        for name in ("volume_weight", "momentum", "weight_decay", "validation"):
            check_number(getattr(self, name), name)
            check_fraction(getattr(self, name), name, zero=True)
        if self.validation >= 1:
            raise ArgumentError("validation must be below 1: it leaves none to learn")


@dataclass(frozen=True)
class Epoch:
    """What one pass ended with: mean loss of the two parts, in nats."""

    loss: float
    held_out: float


class Examples:
    """Examples in memory, in batches whose order a seed decides, or as they come."""

    def __init__(
        self, features: Tensor, labels: Tensor, size: int, seed: int | None = None
    ) -> None:
        self.features, self.labels, self.size = features, labels, size
        self.generator = torch.Generator().manual_seed(seed or 0)
        self.shuffled = seed is not None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.labels))
        if self.shuffled:
            order = torch.randperm(len(order), generator=self.generator)
        for part in order.split(self.size):
            yield self.features[part], self.labels[part]


def split(
    features: Tensor, labels: Tensor, settings: Settings
) -> tuple[Examples, Examples]:
    """Examples to learn from, in an order of the seed, and those held out."""
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(labels), generator=generator)
    cut = int(settings.validation * len(labels))
    inside, outside, size = order[cut:], order[:cut], settings.batch_size
    learned = Examples(features[inside], labels[inside], size, settings.seed)
    return learned, Examples(features[outside], labels[outside], size)


class Training:
    """Classifier, transition and their optimisers, one pass after the other.

    Args:
        classifier: From features to scores of the clean classes; it is trained.
        transition: A module that gives T; one without parameters is not trained.
        settings: How to train.
    """

    def __init__(
        self, classifier: nn.Module, transition: nn.Module, settings: Settings
    ) -> None:
        self.classifier, self.transition = classifier, transition
        self.settings = settings
        self.history: list[Epoch] = []
        self.best = self._copied()
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(
                classifier.parameters(),
                lr=settings.learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
            )
        ]
        learned = list(transition.parameters())
        if learned:
            rate = settings.transition_rate
            self.optimizers.append(torch.optim.Adam(learned, lr=rate))

    def run(
        self, batches: Batches, held_out: Batches, checkpoint: Path | None = None
    ) -> Iterator[Epoch]:
        """Trains the passes that are left, and yields each when it is done.

        Raises:
            ConvergenceError: The loss is no longer a number.
        """
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint, batches)
        while len(self.history) < self.settings.epochs:
            loss = self._pass(batches, learn=True)
            outside = self._pass(held_out, learn=False)
            self._keep(Epoch(loss, outside))
            if checkpoint is not None:
                self._save(checkpoint, batches)
            yield self.history[-1]

    def restore_best(self) -> None:
        """Puts back the weights of the best epoch, or of the last without held-outs."""
        self.classifier.load_state_dict(self.best[0])
        self.transition.load_state_dict(self.best[1])
        self.classifier.eval()

    def _pass(self, batches: Batches, *, learn: bool) -> float:
        self.classifier.train(learn)
        total, count = 0.0, 0
        weight = self.settings.volume_weight if len(self.optimizers) > 1 else 0.0
        with torch.set_grad_enabled(learn):
            for features, labels in batches:
                scores, matrix = self.classifier(features), self.transition()
                if not bool(matrix.isfinite().all()):
                    self._refuse(float("nan"))
                loss = noisy_label_loss(scores, matrix, labels, volume_weight=weight)
                if not bool(loss.isfinite()):
                    self._refuse(float(loss.detach()))
                if learn:
                    self._step(loss)
                total += float(loss.detach()) * len(labels)
                count += len(labels)
        return total / count if count else float("nan")

    def _refuse(self, loss: float) -> None:
        message = (
            f"the loss became {loss} in epoch {len(self.history) + 1}; use a "
            f"learning_rate below {self.settings.learning_rate:g}, and features of "
            f"mean 0 and variance 1"
        )
        raise ConvergenceError(message, self.history)

    def _step(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def _keep(self, epoch: Epoch) -> None:
        """Notes a pass; its weights are the best where none held out scored better."""
        earlier = [past.held_out for past in self.history]
        self.history.append(epoch)
        if not any(past < epoch.held_out for past in earlier):
            self.best = self._copied()

    def _copied(self) -> tuple[dict[str, Any], dict[str, Any]]:
        parts = self.classifier, self.transition
        first, second = (deepcopy(part.state_dict()) for part in parts)
        return first, second

    def _save(self, checkpoint: Path, batches: Batches) -> None:
        state = {
            "history": [(past.loss, past.held_out) for past in self.history],
            "weights": self._copied(),
            "best": self.best,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        if isinstance(batches, Examples):
            state["order"] = batches.generator.get_state()
        save_state(checkpoint, asdict(self.settings), state)

    def _resume(self, checkpoint: Path, batches: Batches) -> None:
        state = load_state(checkpoint, asdict(self.settings))
        self.history = [Epoch(*past) for past in state["history"]]
        self.best = state["best"]
        self.classifier.load_state_dict(state["weights"][0])
        self.transition.load_state_dict(state["weights"][1])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        if isinstance(batches, Examples):
            batches.generator.set_state(state["order"])
