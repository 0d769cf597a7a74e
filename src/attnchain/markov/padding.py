"""Questions about one chain among padding: asked of its live states."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.markov.results import MetastableSets
from attnchain.operators import AbstractTransition, Stacked

Options = ParamSpec("Options")
Answer = TypeVar("Answer", MetastableSets, tuple[MetastableSets, ...])


def of_live_states(
    question: Callable[Concatenate[AbstractTransition, Options], Answer],
) -> Callable[Concatenate[AbstractTransition, Options], Answer]:
    """The question asked of live states, its answer in their places among all.

    Tensors among the arguments have a row for each state. Padding belongs to no set:
    its memberships are 0 and its label is -1.
    """

    @wraps(question)
    def asked(
        transition: AbstractTransition, *args: Options.args, **kwargs: Options.kwargs
    ) -> Answer:
        if not isinstance(transition, Stacked):
            return question(transition, *args, **kwargs)
        if transition.batch_shape:
            message = (
                f"one chain is asked for its sets, since each may have another number "
                f"of them, not {transition!r}; mix heads first, and ask each text by "
                f"itself, in its places: [metastable_sets(chains[i]) for i in "
                f"range({len(transition.live)})]"
            )
            raise ShapeError(message)
        states = transition.live.nonzero()[:, 0]

        def own(value: Any) -> Any:
            rows = isinstance(value, Tensor) and len(value) == transition.n_states
            return value[states] if rows else value

        options = {name: own(value) for name, value in kwargs.items()}
        found = question(transition.members[0], *map(own, args), **options)  # pyright: ignore[reportCallIssue]
        if isinstance(found, MetastableSets):
            return _placed(found, transition)
        return tuple(_placed(sets, transition) for sets in found)  # pyright: ignore[reportReturnType]

    return asked


def _placed(sets: MetastableSets, transition: Stacked) -> MetastableSets:
    labels = torch.full_like(transition.live, -1, dtype=sets.labels.dtype)
    labels[transition.live] = sets.labels
    memberships = transition.together([sets.memberships.mT]).mT.contiguous()
    return replace(sets, memberships=memberships, labels=labels)
