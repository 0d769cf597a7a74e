"""Fast Nystrom attention, its landmarks and masking, where the answer is known."""

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain import as_transition
from attnchain.errors import (
    ArgumentError,
    MaterializationWarning,
    NotStochasticError,
    ShapeError,
)
from attnchain.methods.fast_nystrom import (
    Sunk,
    farthest_points,
    fast_nystrom,
    masked,
    massive_tokens,
)
from attnchain.operators import AbstractTransition, AttentionTransition

GROUPS = torch.arange(60) % 4
FIRST = torch.tensor([0, 1, 2, 3])


def clustered(n_heads=None):
    """Scores that depend on the clusters of query and key only."""
    shape = (4, 5) if n_heads is None else (n_heads, 4, 5)
    q, k = queries_and_keys(*shape)
    return AttentionTransition(q[..., GROUPS, :], k[..., GROUPS, :])


def noisy(n=80):
    return AttentionTransition(*queries_and_keys(n, 6))


class TestLandmarks:
    def test_farthest_points_take_one_of_every_cluster_first(self):
        _, k = queries_and_keys(4, 5)
        points = farthest_points(k[GROUPS], 4)
        assert sorted(GROUPS[points].tolist()) == [0, 1, 2, 3]
        assert farthest_points(k, 4).unique().numel() == 4

    @pytest.mark.parametrize("count", [0, 5])
    def test_impossible_counts_are_refused(self, count):
        with pytest.raises(ArgumentError, match="count"):
            farthest_points(torch.rand(4, 2), count)


class TestFastNystrom:
    @pytest.mark.parametrize("n_heads", [None, 3])
    def test_is_exact_for_one_landmark_per_cluster(self, n_heads):
        chain = clustered(n_heads)
        small = fast_nystrom(chain, FIRST, iterations=None)
        torch.testing.assert_close(small.to_dense(), chain.to_dense())
        v = torch.rand(60, dtype=torch.float64)
        torch.testing.assert_close(small.push(v), chain.push(v))
        torch.testing.assert_close(small.pull(v), chain.pull(v))
        assert float(small.row_sum_error().max()) < 1e-9

    def test_says_how_far_it_is_from_a_chain(self):
        chain = noisy()
        small = fast_nystrom(chain, torch.arange(12))
        dense = small.to_dense()
        assert not isinstance(small, AbstractTransition)
        expected = (dense.sum(-1) - 1).abs().max()
        torch.testing.assert_close(small.row_sum_error(), expected)
        torch.testing.assert_close(small.most_negative(), dense.min())
        assert float(small.most_negative()) < 0
        torch.testing.assert_close(
            small.normalized().to_dense().sum(-1), torch.ones(80).double()
        )

    def test_more_iterations_approach_the_exact_inverse(self):
        chain = clustered()
        errors = [
            float(fast_nystrom(chain, FIRST, iterations=i).row_sum_error())
            for i in (1, 6, 30)
        ]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-9

    def test_it_is_never_taken_for_a_chain(self):
        with pytest.raises(ArgumentError, match="transition needs"):
            as_transition(fast_nystrom(noisy(), FIRST))

    def test_rows_without_mass_are_not_normalised(self):
        small = fast_nystrom(noisy(), FIRST)
        broken = type(small)(-small.left, small.right)
        with pytest.raises(NotStochasticError, match="cannot be normalised"):
            broken.normalized()

    def test_what_does_not_fit_is_refused(self):
        q, k = queries_and_keys(6, 3)
        with pytest.raises(ArgumentError, match="neither masked nor causal"):
            fast_nystrom(AttentionTransition(q, k, causal=True), FIRST)
        with pytest.raises(ArgumentError, match="iterations"):
            fast_nystrom(AttentionTransition(q, k), FIRST, iterations=0)
        with pytest.raises(ShapeError, match="do not fit"):
            fast_nystrom(AttentionTransition(q, k), FIRST).push(torch.rand(5))

    def test_a_dense_form_above_the_budget_warns(self, monkeypatch):
        small = fast_nystrom(
            AttentionTransition(*queries_and_keys(800, 2)), torch.tensor([0, 1])
        )
        monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
        with pytest.warns(MaterializationWarning, match="GiB"):
            small.to_dense()


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

    def test_sinking_loses_what_is_reported(self):
        chain = noisy()
        sunk = Sunk(chain, torch.tensor([2, 5]))
        matrix = chain.to_dense().clone()
        matrix[:, [2, 5]] = 0
        v = torch.rand(80, dtype=torch.float64)
        torch.testing.assert_close(sunk.push(v), v @ matrix)
        torch.testing.assert_close(sunk.pull(v), matrix @ v)
        torch.testing.assert_close(sunk.lost, 1 - matrix.sum(-1))

    def test_no_token_may_be_left_out_altogether(self):
        with pytest.raises(ArgumentError, match="no token is left"):
            masked(noisy(), torch.arange(80))
        with pytest.raises(ArgumentError, match="tokens must be"):
            Sunk(noisy(), torch.tensor([80]))

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
