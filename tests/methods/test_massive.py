"""Massive tokens and masking, where the answer is known."""

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.methods.massive import masked, massive_tokens
from attnchain.operators import AttentionTransition


def noisy(n=80):
    return AttentionTransition(*queries_and_keys(n, 6))


class TestMasking:
    def test_silencing_one_sink_raises_the_other(self):
        # Every row: 0.5 to sink 0, 0.3 to sink 1, 0.2 to the rest.
        scores = torch.tensor([0.5, 0.3, 0.1, 0.1]).double().log()
        q, k = torch.ones(4, 1).double(), scores[:, None]
        chain = masked(AttentionTransition(q, k, scale=1.0), torch.tensor([0]))
        expected = torch.tensor([0.0, 0.6, 0.2, 0.2]).double()
        torch.testing.assert_close(chain.to_dense(), expected.expand(4, 4))

    @pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
    def test_masking_is_conditioning(self, kind):
        q, k = queries_and_keys(2, 7, 3)
        generator = torch.Generator().manual_seed(0)
        masks = {
            "none": None,
            "boolean": torch.rand(7, 7, generator=generator) > 0.3,
            "additive": torch.randn(7, generator=generator, dtype=torch.float64),
        }
        masks["boolean"][:, 5] = True
        chain = AttentionTransition(q, k, mask=masks[kind])
        matrix = chain.to_dense().clone()
        matrix[..., [1, 4]] = 0
        matrix /= matrix.sum(-1, keepdim=True)
        found = masked(chain, torch.tensor([1, 4])).to_dense()
        torch.testing.assert_close(found, matrix)

    def test_no_token_may_be_left_out_altogether(self):
        with pytest.raises(ArgumentError, match="no token is left"):
            masked(noisy(), torch.arange(80))
        with pytest.raises(ArgumentError, match="tokens must be"):
            masked(noisy(), torch.tensor([80]))

    def test_massive_tokens_stand_above_the_largest_gap(self):
        norms = torch.tensor([1.0, 1.5, 200.0, 1.2, 150.0, 2.0])
        features = norms[:, None] * torch.nn.functional.normalize(torch.ones(6, 8))
        assert massive_tokens(features).tolist() == [2, 4]

    @pytest.mark.parametrize("features", [torch.ones(1, 3), torch.ones(4)])
    def test_too_few_tokens_are_refused(self, features):
        with pytest.raises(ShapeError, match="features"):
            massive_tokens(features)

    def test_tokens_without_a_norm_are_refused(self):
        with pytest.raises(NotStochasticError, match="norm zero"):
            massive_tokens(torch.tensor([[0.0], [1.0]]))
        with pytest.raises(NotStochasticError, match="features"):
            massive_tokens(torch.tensor([[torch.nan], [1.0]]))
