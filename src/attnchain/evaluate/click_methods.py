"""Ways to find an object by clicks, with their settings."""

from functools import partial
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.evaluate.clicking import by_nearness, in_session
from attnchain.evaluate.method import Method, named
from attnchain.evaluate.subject import Layers, Subject, Weights
from attnchain.methods.m2n2 import segment_nearest


def click_methods(depth: int) -> list[Method]:
    """All methods and settings for a model with that many layers."""
    top = depth - 1
    late = tuple(range(max(top - 1, 0), depth))
    four = tuple(range(max(top - 3, 0), depth))
    below = tuple(range(max(top - 5, 0), max(top - 1, 1)))
    methods = [Method("default", "default", late, partial(in_session, layers=late))]
    for layers in dict.fromkeys((late, four, below)):
        runs = {
            "session, corrected": partial(in_session, layers=layers),
            "session, nearest (M2N2)": partial(
                in_session, layers=layers, cut=segment_nearest
            ),
        }
        for family, make in _NEARNESS.items():
            nearness = partial(make, layers=layers)
            runs[f"nearest click by {family}"] = partial(by_nearness, nearness=nearness)
        for family, run in runs.items():
            methods.append(Method(f"{family}, {named(layers)}", family, layers, run))
    family = "control: distance in the picture"
    control = partial(by_nearness, nearness=near)
    return [*methods, Method(family, family, (top,), control)]


def out_and_back(
    subject: Subject, patch: int, *, layers: Layers, weights: Weights = "uniform"
) -> Float[Tensor, " n"]:
    """The walk one step out from the patch and one back."""
    return subject.out_and_back(layers, weights).matrix[patch]


def row(subject: Subject, patch: int, *, layers: Layers) -> Float[Tensor, " n"]:
    """Where the patch looks."""
    return subject.chain(layers).matrix[patch]


def column(subject: Subject, patch: int, *, layers: Layers) -> Float[Tensor, " n"]:
    """Who looks at the patch."""
    return subject.chain(layers).matrix[:, patch]


def pulled(
    subject: Subject, patch: int, *, layers: Layers, bounces: int
) -> Float[Tensor, " n"]:
    """Probability of being at the patch after some bounces."""
    chain = subject.chain(layers)
    values = torch.zeros(chain.n_states)
    values[patch] = 1
    for _ in range(bounces):
        values = chain.pull(values)
    return values


def near(subject: Subject, patch: int) -> Float[Tensor, " n"]:
    """Minus the distance in the picture, whatever it shows."""
    grid = subject.attention.grid
    numbers = torch.arange(grid.n_patches)
    down = numbers // grid.columns - patch // grid.columns
    across = numbers % grid.columns - patch % grid.columns
    return -(down**2 + across**2).float().sqrt()


_NEARNESS: Final = {
    "out and back": out_and_back,
    "single bounce, row select": row,
    "single bounce, column select": column,
    "multi-bounce pull, n = 2": partial(pulled, bounces=2),
    "multi-bounce pull, n = 3": partial(pulled, bounces=3),
}
