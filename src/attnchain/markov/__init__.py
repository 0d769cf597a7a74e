"""What one asks of a chain: functions on transitions that return frozen results."""

from attnchain.markov.explained import explained_bounce
from attnchain.markov.lambda2 import second_eigenvalue
from attnchain.markov.metastability import (
    coarse_grained,
    metastable_levels,
    metastable_sets,
    most_distinct,
)
from attnchain.markov.mixture import mix
from attnchain.markov.propagation import (
    Direction,
    Start,
    oriented,
    propagate,
    starting_distribution,
)
from attnchain.markov.results import (
    LeadingSubspaces,
    MetastableSets,
    Outcome,
    SecondEigenvalue,
    Spectrum,
    Stationary,
)
from attnchain.markov.spectral import spectrum
from attnchain.markov.stationarity import stationary
from attnchain.markov.structure import (
    closed_classes,
    detailed_balance_error,
    is_irreducible,
    is_reversible,
    is_stochastic,
)
from attnchain.markov.subspaces import leading_subspaces
from attnchain.markov.timescales import (
    implied_timescale,
    mixing_time,
    relaxation_time,
    spectral_gap,
)

__all__ = [
    "Direction",
    "LeadingSubspaces",
    "MetastableSets",
    "Outcome",
    "SecondEigenvalue",
    "Spectrum",
    "Start",
    "Stationary",
    "closed_classes",
    "coarse_grained",
    "detailed_balance_error",
    "explained_bounce",
    "implied_timescale",
    "is_irreducible",
    "is_reversible",
    "is_stochastic",
    "leading_subspaces",
    "metastable_levels",
    "metastable_sets",
    "mix",
    "mixing_time",
    "most_distinct",
    "oriented",
    "propagate",
    "relaxation_time",
    "second_eigenvalue",
    "spectral_gap",
    "spectrum",
    "starting_distribution",
    "stationary",
]
