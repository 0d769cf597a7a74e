"""Chains with known answers that several test modules run over."""

from attnchain.testing import chains

KNOWN = {
    "two_state": chains.two_state(0.1, 0.3),
    "flip_flop": chains.two_state(1.0, 1.0),
    "one_way": chains.two_state(0.2, 0.0),
    "cycle": chains.cycle(5),
    "lazy_cycle": chains.lazy_cycle(6, 0.3),
    "birth_death": chains.birth_death(7, 0.3, 0.2),
    "blocks": chains.block_diagonal(3, 4, 0.02),
    "uncoupled": chains.block_diagonal(2, 3, 0.0),
    "absorbing": chains.absorbing_causal(5),
}
