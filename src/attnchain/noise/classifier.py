"""A classifier that learns from noisy labels, and the chain of their noise."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnchain.checks import check_count, check_finite, check_floating
from attnchain.errors import ArgumentError, AssumptionWarning, ShapeError
from attnchain.noise.fitting import Batches, Epoch, Settings, Training, split
from attnchain.noise.label_noise import NoiseTransition
from attnchain.noise.scatter import survey
from attnchain.operators import DenseTransition

LOOSE = 1.25
"""Posteriors that leave a direction of this length open are not scattered."""
RIVAL = 0.9
"""Posteriors that leave a direction this long beside the classes have two answers."""
_SAMPLE = 2000
_AT_A_TIME = 4096


class VolumeMinimized:
    r"""A classifier of clean classes, learned from noisy labels alone (VolMinNet).

    The noisy posterior is the clean one times a transition T. Both are learned
    together: the negative log-likelihood of the noisy labels plus
    $\lambda \ln\det T$, so that of all simplices around the noisy posteriors the
    smallest one is taken. No example of certain class (anchor) is needed, but clean
    posteriors must be *sufficiently scattered*. Where they are not, the answer is
    worse than none: what the fit itself shows of that is warned about. It cannot show
    everything: labels flipped by T of examples that are all equally ambiguous look
    like unambiguous ones flipped more often.

    Args:
        n_classes: Number of classes.
        classifier: Any torch module from features to `n_classes` scores; a copy is
            trained. By default two hidden layers of 256 on the flattened features.
        **settings: `volume_weight`, `epochs`, `batch_size`, `learning_rate`,
            `momentum`, `weight_decay`, `transition_rate`, `validation`, `seed`, see
            `attnchain.noise.fitting.Settings`.

    Attributes:
        transition_: After `fit`, T as a chain over the classes: its stationary law,
            second eigenvalue and metastable sets are those of the noise.
        classifier_: The trained module.
        history_: Loss of every epoch, on examples learned from and held out.
        scattering_: `scattering` of the posteriors found: 1 is right.

    Raises:
        ArgumentError: A setting is unknown or out of range.

    Sources:
        Li et al., arXiv 2102.02400.
    """

    transition_: DenseTransition
    classifier_: nn.Module
    history_: list[Epoch]
    scattering_: float

    def __init__(
        self, n_classes: int, classifier: nn.Module | None = None, **settings: Any
    ) -> None:
        check_count(n_classes, "n_classes", low=2, high=100_000, meaning="classes")
        self.n_classes = n_classes
        self.classifier = classifier
        try:
            self.settings = Settings(**settings)
        except TypeError as error:
            raise ArgumentError(f"unknown setting: {error}") from error

    def fit(
        self,
        features: Float[Tensor, "m ..."] | Batches,
        noisy_labels: Int[Tensor, " m"] | None = None,
        *,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> "VolumeMinimized":
        """Learns the classifier and the transition.

        Args:
            features: All examples; or any iterable of batches (features, labels) that
                can be gone through again, such as a torch `DataLoader`. From batches
                nothing is held out, and the last epoch is kept.
            noisy_labels: A class for each example, 0 to `n_classes` - 1.
            checkpoint: File to resume from and to write after every epoch.
            progress: Show a bar.

        Returns:
            This object.

        Raises:
            ShapeError: Features and labels do not fit each other.
            ArgumentError: A label is no class, or a class never occurs; or the
                checkpoint was made with other settings.
            NotStochasticError: Features are not finite, or T has lost its order.
            ConvergenceError: The loss is no longer a number.

        Warns:
            AssumptionWarning: The clean posteriors found are not scattered.
        """
        batches, held_out, sample = self._examples(features, noisy_labels)
        torch.manual_seed(self.settings.seed)
        classifier = self.classifier or _perceptron(sample, self.n_classes)
        training = Training(
            deepcopy(classifier), NoiseTransition(self.n_classes), self.settings
        )
        path = None if checkpoint is None else Path(checkpoint)
        epochs = training.run(batches, held_out, path)
        for _ in _shown(epochs, self.settings.epochs) if progress else epochs:
            pass
        training.restore_best()
        self.classifier_, self.history_ = training.classifier, training.history
        matrix = training.transition().detach().double()
        self.transition_ = DenseTransition(matrix / matrix.sum(-1, keepdim=True))
        self.scattering_ = self._check_scattering(sample)
        return self

    def predict_proba(
        self, features: Float[Tensor, "m ..."]
    ) -> Float[Tensor, "m classes"]:
        """Probabilities of the clean classes.

        Raises:
            ArgumentError: `fit` has not been called.
        """
        if not hasattr(self, "classifier_"):
            raise ArgumentError("nothing has been learned yet: call fit first")
        with torch.no_grad():
            scores = [self.classifier_(part) for part in features.split(_AT_A_TIME)]
        return torch.cat(scores).softmax(-1)

    def predict(self, features: Float[Tensor, "m ..."]) -> Int[Tensor, " m"]:
        """The likeliest clean class of each example."""
        return self.predict_proba(features).argmax(-1)

    def _examples(
        self, features: Any, labels: Tensor | None
    ) -> tuple[Batches, Batches, Tensor]:
        """Batches to learn from, batches held out, and some features."""
        if not isinstance(features, Tensor):
            return self._checked_batches(features, labels), (), _first(features)
        if labels is None:
            raise ArgumentError("noisy_labels are missing: give one for each example")
        self._check_labels(labels, len(features))
        seen = torch.bincount(labels.long(), minlength=self.n_classes)
        if bool((seen == 0).any()):
            message = (
                f"class {int((seen == 0).nonzero()[0])} never occurs among the labels, "
                f"so nothing can be said of its noise; give labels without gaps and "
                f"n_classes={int((seen > 0).sum())}"
            )
            raise ArgumentError(message)
        check_floating(features, "features")
        check_finite(features, "features")
        learned, held_out = split(features, labels.long(), self.settings)
        return learned, held_out, learned.features[:_SAMPLE]

    def _checked_batches(self, batches: Any, labels: Any) -> Batches:
        if (
            labels is not None
            or not hasattr(batches, "__iter__")
            or iter(batches) is (batches)
        ):
            message = (
                "features must be a tensor with noisy_labels beside it, or an iterable "
                "of batches (features, labels) that can be gone through again, such as "
                f"a DataLoader, without noisy_labels; but is {type(batches).__name__}"
            )
            raise ArgumentError(message)
        for inputs, given in batches:
            self._check_labels(given, len(inputs))
        return batches

    def _check_labels(self, labels: Tensor, count: int) -> None:
        whole = isinstance(labels, Tensor) and not (
            labels.is_floating_point() or labels.is_complex()
        )
        if not whole or labels.shape != (count,):
            came = (
                f"{labels.dtype} of shape {tuple(labels.shape)}"
                if isinstance(labels, Tensor)
                else type(labels).__name__
            )
            message = (
                f"noisy_labels must be a tensor of whole numbers, one for each of "
                f"{count} examples, but are {came}"
            )
            raise ShapeError(message)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.n_classes:
            message = (
                f"labels must lie in 0..{self.n_classes - 1}, as n_classes is "
                f"{self.n_classes}, but one is {low if low < 0 else high}"
            )
            raise ArgumentError(message)

    def _check_scattering(self, features: Tensor) -> float:
        rows = self.predict_proba(features[:_SAMPLE]).double()
        found, other = survey(rows)
        if found > LOOSE or other > RIVAL:
            message = (
                f"the clean posteriors found are not sufficiently scattered (a "
                f"direction of length {found:.3g} is open, and one of {other:.3g} that "
                f"is no class; 1 and 0 would be right): "
                f"the transition is not the only one that fits, and may be far off. "
                f"More examples of nearly certain class would settle it"
            )
            warnings.warn(message, AssumptionWarning, stacklevel=3)
        return found


def _perceptron(features: Tensor, n_classes: int) -> nn.Module:
    """Two hidden layers of 256."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features[0].numel(), 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, n_classes),
    )


def _first(batches: Batches) -> Tensor:
    """The features of the first batches, as many as scattering looks at."""
    parts, count = [], 0
    for inputs, _ in batches:
        parts.append(inputs)
        count += len(inputs)
        if count >= _SAMPLE:
            break
    return torch.cat(parts)


def _shown(epochs: Any, total: int) -> Any:
    from rich.progress import track

    return track(epochs, "learning", total=total)
