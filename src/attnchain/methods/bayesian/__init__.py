"""Bayesian Attention Modules (Fan et al., NeurIPS 2020, arXiv 2010.10604).

Attention weights are drawn, not computed: a chain becomes a random chain, and what one
asks of it a distribution. Written from the formulas; the Dirichlet family is ours.
"""

from attnchain.methods.bayesian.drawn_attention import BayesianAttention
from attnchain.methods.bayesian.random_transition import Draws, RandomTransition
from attnchain.methods.bayesian.weight_families import (
    AbstractWeights,
    DirichletWeights,
    LogNormalWeights,
    WeibullWeights,
)

__all__ = [
    "AbstractWeights",
    "BayesianAttention",
    "DirichletWeights",
    "Draws",
    "LogNormalWeights",
    "RandomTransition",
    "WeibullWeights",
]
