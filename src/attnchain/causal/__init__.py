"""Markov equivalence classes of causal graphs, sampled by Markov processes.

A chain over graphs, not over tokens; nothing else in the package uses it. Classes:
`EquivalenceClass`, `enumerate_classes`. Moves: `list_moves`, `count_moves`,
`draw_move`, `apply_move`. Targets: `UniformScore`, `GaussianBic`, `BDeu`. Sampling:
`ClassSampler`, which returns a `ClassSample`. By enumeration: `exact_posterior`,
`class_chain`.
"""

from attnchain.causal.equivalence import EquivalenceClass
from attnchain.causal.exact import (
    ClassChain,
    class_chain,
    enumerate_classes,
    exact_posterior,
)
from attnchain.causal.moves import (
    DELETE,
    INSERT,
    Move,
    apply_move,
    count_moves,
    draw_move,
    is_valid,
    list_moves,
)
from attnchain.causal.posteriors import (
    ClassPosterior,
    ClassSample,
    Edge,
    EdgeProbabilities,
)
from attnchain.causal.sampler import ClassSampler
from attnchain.causal.scores import (
    BDeu,
    GaussianBic,
    Score,
    UniformScore,
    total_score,
)

__all__ = [
    "DELETE",
    "INSERT",
    "BDeu",
    "ClassChain",
    "ClassPosterior",
    "ClassSample",
    "ClassSampler",
    "Edge",
    "EdgeProbabilities",
    "EquivalenceClass",
    "GaussianBic",
    "Move",
    "Score",
    "UniformScore",
    "apply_move",
    "class_chain",
    "count_moves",
    "draw_move",
    "enumerate_classes",
    "exact_posterior",
    "is_valid",
    "list_moves",
    "total_score",
]
