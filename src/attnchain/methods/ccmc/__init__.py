r"""Context-conditioned Markov chains: one attention layer as a chain over tokens.

A single softmax-attention layer whose query is the last token of a prompt, and whose
output is read through the embedding, gives the next token the probability
$m_j P_{ij} / \sum_k m_k P_{ik}$: a base chain P over the vocabulary, reweighted by the
share m of every token in the prompt.

* `context`: `token_chain` (P of a layer's weights), `context_conditioned`,
  `next_token`, `generate`.
* `likelihood`: P back from prompts (`fit_prompts`) or one long text (`fit_trajectory`).
* `collapse`: why generated text ends with few tokens, and how fast.

Sources:
    Ildiz, Huang, Li, Rawat, Oymak, From Self-Attention to Markov Models, ICML 2024,
    arXiv 2402.13512; no code is public. The rates of `collapse` are derived here.
"""

from attnchain.methods.ccmc.collapse import expected_frequencies, growth_exponents
from attnchain.methods.ccmc.context import (
    context_conditioned,
    generate,
    next_token,
    token_chain,
    token_frequencies,
)
from attnchain.methods.ccmc.likelihood import (
    FittedChain,
    fit_prompts,
    fit_trajectory,
)

__all__ = [
    "FittedChain",
    "context_conditioned",
    "expected_frequencies",
    "fit_prompts",
    "fit_trajectory",
    "generate",
    "growth_exponents",
    "next_token",
    "token_chain",
    "token_frequencies",
]
