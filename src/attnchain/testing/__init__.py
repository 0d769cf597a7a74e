"""Chains with known answers and assertions, for our tests and yours.

* `chains`: small chains whose stationary distribution and eigenvalues have formulas
* `hard`: random chains of the kinds on which numerics go wrong
* `asserts`: `assert_distribution`, `assert_stochastic`, `assert_adjoint`
* `strategies`: hypothesis strategies for chains, queries and keys; needs hypothesis,
  so import `attnchain.testing.strategies` itself
"""

from attnchain.testing.asserts import (
    assert_adjoint,
    assert_distribution,
    assert_stochastic,
)
from attnchain.testing.chains import (
    KnownChain,
    PaperToy,
    absorbing_causal,
    birth_death,
    block_diagonal,
    cycle,
    lazy_cycle,
    paper_toy,
    rank_one,
    two_state,
)

__all__ = [
    "KnownChain",
    "PaperToy",
    "absorbing_causal",
    "assert_adjoint",
    "assert_distribution",
    "assert_stochastic",
    "birth_death",
    "block_diagonal",
    "cycle",
    "lazy_cycle",
    "paper_toy",
    "rank_one",
    "two_state",
]
