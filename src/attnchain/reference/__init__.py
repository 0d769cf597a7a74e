"""A dense float64 twin of `attnchain.operators` and `attnchain.markov`, for reading.

Everything here takes and gives plain `n x n` NumPy arrays: no batches, no iteration
where a formula exists, no speed. What the fast layers compute is defined by these
functions, and the tests compare the two. Nothing in the package imports this one.

* matrices: `attention`, `normalize_rows`, `push`, `pull`, `mixture`, `product`,
  `power`, `damped`, `restricted`, `conditioned`, `column_normalized`, `reversed_`,
  `lazy`, `permuted`
* classes of states: `communicating_classes`, `closed_classes`, `is_irreducible`
* limits: `propagate`, `stationary_distributions`, `stationary`, `token_rank`,
  `detailed_balance_error`, `is_reversible`
* spectrum: `eigenvalues`, `second_eigenvalue`, `spectral_gap`, `relaxation_time`,
  `implied_timescale`, `mixing_time`, `explained_bounce`, `lambda2_weights`
* metastable sets: `invariant_subspace`, `memberships`, `metastable_sets`
"""

from attnchain.reference.classes import (
    closed_classes,
    communicating_classes,
    is_irreducible,
)
from attnchain.reference.limits import (
    detailed_balance_error,
    is_reversible,
    propagate,
    stationary,
    stationary_distributions,
    token_rank,
)
from attnchain.reference.matrices import (
    attention,
    column_normalized,
    conditioned,
    damped,
    lazy,
    mixture,
    normalize_rows,
    permuted,
    power,
    product,
    pull,
    push,
    restricted,
    reversed_,
)
from attnchain.reference.metastable import (
    Metastable,
    invariant_subspace,
    memberships,
    metastable_sets,
)
from attnchain.reference.spectrum import (
    eigenvalues,
    explained_bounce,
    implied_timescale,
    lambda2_weights,
    mixing_time,
    relaxation_time,
    second_eigenvalue,
    spectral_gap,
)

__all__ = [
    "Metastable",
    "attention",
    "closed_classes",
    "column_normalized",
    "communicating_classes",
    "conditioned",
    "damped",
    "detailed_balance_error",
    "eigenvalues",
    "explained_bounce",
    "implied_timescale",
    "invariant_subspace",
    "is_irreducible",
    "is_reversible",
    "lambda2_weights",
    "lazy",
    "memberships",
    "metastable_sets",
    "mixing_time",
    "mixture",
    "normalize_rows",
    "permuted",
    "power",
    "product",
    "propagate",
    "pull",
    "push",
    "relaxation_time",
    "restricted",
    "reversed_",
    "second_eigenvalue",
    "spectral_gap",
    "stationary",
    "stationary_distributions",
    "token_rank",
]
