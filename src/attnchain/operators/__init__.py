"""What a chain is: transitions with push and pull, and their algebra.

Leaves: `DenseTransition` stores its matrix, `AttentionTransition` reads it from
queries and keys; `Stacked` puts single chains together, as texts of different lengths.
Algebra: `Mixture`, `Product`, `Power`, `Damped`. Derived chains: `Restricted`,
`Conditioned`, `ColumnNormalized`, `Reversed`, `Lazy`, `Permuted`, `Grouped`. Ways in
and out: `as_transition`, `normalize_rows`, `to_scipy`.
"""

from attnchain.operators.algebra import Mixture, Power, Product
from attnchain.operators.attention import AttentionTransition
from attnchain.operators.base import AbstractTransition, check_transition
from attnchain.operators.causality import is_causal
from attnchain.operators.damped import Damped
from attnchain.operators.dense import DenseTransition
from attnchain.operators.grouped import Grouped, Seating, kept_mass
from attnchain.operators.indexing import kept_states
from attnchain.operators.interop import (
    as_transition,
    normalize_rows,
    stored,
    to_scipy,
)
from attnchain.operators.kernels.prepared import Side
from attnchain.operators.memory import announce_storage, fits_budget
from attnchain.operators.precision import full_precision
from attnchain.operators.reversible import forward_backward
from attnchain.operators.reweighted import (
    ColumnNormalized,
    Conditioned,
    Restricted,
    Reversed,
)
from attnchain.operators.stacked import Stacked
from attnchain.operators.transform import Lazy, Permuted

__all__ = [
    "AbstractTransition",
    "AttentionTransition",
    "ColumnNormalized",
    "Conditioned",
    "Damped",
    "DenseTransition",
    "Grouped",
    "Lazy",
    "Mixture",
    "Permuted",
    "Power",
    "Product",
    "Restricted",
    "Reversed",
    "Seating",
    "Side",
    "Stacked",
    "announce_storage",
    "as_transition",
    "check_transition",
    "fits_budget",
    "forward_backward",
    "full_precision",
    "is_causal",
    "kept_mass",
    "kept_states",
    "normalize_rows",
    "stored",
    "to_scipy",
]
