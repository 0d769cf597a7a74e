"""Numbers that people of language models read from attention, as functions of a chain.

row_entropy, effective_rank, stable_rank: how spread a head's attention is.
column_sums, received, continued_sums: how much attention a token gets.
sinks: tokens that draw attention whatever is said, from which layer on.
laplacian_eigenvalues: the spectrum of a causal head's Laplacian.
resolvent: where a walk of random length ends.
head_spectra, cluster_heads: heads that are alike.
"""

from attnchain.readouts.columns import column_sums, continued_sums, received
from attnchain.readouts.head_clusters import cluster_heads, head_spectra
from attnchain.readouts.laplacian import laplacian_eigenvalues
from attnchain.readouts.random_walks import Resolvent, resolvent
from attnchain.readouts.sinks import Sink, sinks
from attnchain.readouts.spread import effective_rank, row_entropy, stable_rank

__all__ = [
    "Resolvent",
    "Sink",
    "cluster_heads",
    "column_sums",
    "continued_sums",
    "effective_rank",
    "head_spectra",
    "laplacian_eigenvalues",
    "received",
    "resolvent",
    "row_entropy",
    "sinks",
    "stable_rank",
]
