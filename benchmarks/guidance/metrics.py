"""Scores of generated pictures against real ones, in the features of a network."""

import numpy as np

NEIGHBOURS = 3


def frechet_distance(mean_a, cov_a, mean_b, cov_b) -> float:
    """Distance of two Gaussians: |m - n|^2 + tr(A + B - 2 (A B)^(1/2))."""
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0))
    apart = ((mean_a - mean_b) ** 2).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    return features.mean(0), np.cov(features, rowvar=False)


def kernel_distance(real: np.ndarray, made: np.ndarray, *, block: int = 1000) -> float:
    """Unbiased squared MMD, kernel (x.y / d + 1)^3, mean over blocks of 1,000.

    Where there are fewer pictures they are one block.
    """
    block = min(block, len(real), len(made))
    blocks = min(len(real), len(made)) // block
    values = []
    for i in range(blocks):
        x, y = (
            part[i * block : (i + 1) * block].astype(np.float64)
            for part in (real, made)
        )
        xx, yy, xy = (_cubic(a, b) for a, b in ((x, x), (y, y), (x, y)))
        n = len(x)
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1))
        values.append(within - 2 * xy.mean())
    return float(np.mean(values))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def inception_score(probabilities: np.ndarray) -> float:
    """exp of the mean divergence of a picture's classes from the average classes."""
    p = probabilities.astype(np.float64) + 1e-12
    average = p.mean(0, keepdims=True)
    return float(np.exp((p * (np.log(p) - np.log(average))).sum(1).mean()))


def inception_score_of_splits(
    probabilities: np.ndarray, splits: int = 10
) -> tuple[float, float]:
    """Mean and standard deviation over equal parts, as Inception Scores are given."""
    parts = np.array_split(probabilities, min(splits, len(probabilities)))
    values = [inception_score(part) for part in parts]
    return float(np.mean(values)), float(np.std(values))


def precision_recall(real: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """Share of made pictures near real ones, and of real near made (third neighbour).

    Kynkaanniemi et al., Improved precision and recall metric, 2019.
    """
    across = _distances(real, made)
    precision = (across <= _radius(real)[:, None]).any(0).mean()
    recall = (across <= _radius(made)[None, :]).any(1).mean()
    return float(precision), float(recall)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    square = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    return square.clip(0).astype(np.float32)


def _radius(x: np.ndarray) -> np.ndarray:
    within = _distances(x, x)
    return np.partition(within, NEIGHBOURS, axis=1)[:, NEIGHBOURS]


def all_scores(real: dict, made: np.ndarray, probabilities: np.ndarray) -> dict:
    """All scores; real holds mean, covariance, and features of held-out pictures."""
    precision, recall = precision_recall(real["features"], made)
    return {
        "FD": frechet_distance(real["mean"], real["covariance"], *moments(made)),
        "KID": 1e3 * kernel_distance(real["features"], made),
        "IS": inception_score(probabilities),
        "precision": precision,
        "recall": recall,
    }
