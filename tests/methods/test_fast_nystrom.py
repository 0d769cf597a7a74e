"""Fast Nystrom attention and its landmarks, where the answer is known."""

import sys

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
    farthest_points,
    fast_nystrom,
    fast_nystrom_layers,
    nystrom_attention,
)
from attnchain.operators import AbstractTransition, AttentionTransition
from attnchain.testing.models.vision import dinov2

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

    def test_guaranteed_tokens_come_first_and_excluded_ones_never(self):
        _, k = queries_and_keys(30, 5)
        plain = farthest_points(k, 30).tolist()
        assert sorted(plain) == list(range(30))
        sure = farthest_points(k, 6, guaranteed=(7, 3)).tolist()
        assert sure[:2] == [7, 3]
        barred = farthest_points(k, 27, excluded=plain[:3]).tolist()
        assert sorted(barred + plain[:3]) == list(range(30))

    def test_each_next_one_is_farthest_from_those_chosen(self):
        _, k = queries_and_keys(20, 3)
        chosen = farthest_points(k, 6, guaranteed=(4,)).tolist()
        for i in range(1, 6):
            nearest = torch.cdist(k, k[chosen[:i]]).amin(1)
            assert int(nearest.argmax()) == chosen[i]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"guaranteed": (0, 1, 2)}, "count must lie in 3..4"),
            ({"excluded": (0, 1, 2)}, "count must lie in 1..1"),
            ({"guaranteed": (0,), "excluded": (0,)}, "both guaranteed and excluded"),
            ({"guaranteed": (4,)}, "guaranteed must be"),
            ({"excluded": (-1,)}, "excluded must be"),
        ],
    )
    def test_impossible_choices_are_refused(self, options, words):
        with pytest.raises(ArgumentError, match=words):
            farthest_points(torch.rand(4, 2), 2, **options)

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


class TestInAModel:
    def tensors(self):
        (q, k), (v, _) = queries_and_keys(2, 3, 9, 4), queries_and_keys(2, 3, 9, 5)
        return q, k, v

    @pytest.mark.parametrize("scale", [None, 0.7])
    def test_output_is_the_operator_times_the_values(self, scale):
        q, k, v = self.tensors()
        landmarks = torch.tensor([0, 4, 7])
        operator = fast_nystrom(AttentionTransition(q, k, scale=scale), landmarks)
        found = nystrom_attention(q, k, v, landmarks, scale=scale)
        torch.testing.assert_close(found, operator.pull(v.mT).mT)

    def test_each_picture_may_have_its_own_landmarks(self):
        q, k, v = self.tensors()
        rows = torch.tensor([[0, 4], [8, 1]])
        found = nystrom_attention(q, k, v, rows)
        for i, row in enumerate(rows):
            alone = nystrom_attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], row)
            torch.testing.assert_close(found[i : i + 1], alone)

    def test_what_does_not_fit_is_refused(self):
        q, k, v = self.tensors()
        with pytest.raises(ArgumentError, match="landmarks must be"):
            nystrom_attention(q, k, v, torch.tensor([9]))
        with pytest.raises(ShapeError, match="pictures, s"):
            nystrom_attention(q, k, v, torch.zeros(3, 1, dtype=torch.long))
        with pytest.raises(ArgumentError, match="iterations"):
            nystrom_attention(q, k, v, torch.tensor([0]), iterations=0)

    def test_all_tokens_as_landmarks_are_the_model_itself(self):
        tiny = dinov2()
        before = tiny.run().last_hidden_state
        n = before.shape[1]
        with fast_nystrom_layers(tiny.model, n, layers=[0, 1], iterations=40):
            found = tiny.run().last_hidden_state
        torch.testing.assert_close(found, before, atol=2e-3, rtol=2e-3)
        with fast_nystrom_layers(tiny.model, 2, layers=[1]):
            few = tiny.run().last_hidden_state
        assert not torch.allclose(few, before, atol=2e-3, rtol=2e-3)

    def test_landmarks_are_chosen_by_the_first_layer_in_every_run(self, monkeypatch):
        tiny, seen = dinov2(), []
        module = sys.modules[nystrom_attention.__module__]

        def watching(query, key, value, landmarks, **options):
            seen.append((query, landmarks))
            return nystrom_attention(query, key, value, landmarks, **options)

        monkeypatch.setattr(module, "nystrom_attention", watching)
        with fast_nystrom_layers(tiny.model, 5, layers=[0, 1]):
            tiny.run()
            tiny.model(pixel_values=-tiny.kwargs["pixel_values"])
        first, second, third, fourth = seen
        assert first[1] is second[1]
        assert third[1] is fourth[1]
        assert not torch.equal(first[1], third[1])
        for (query, landmarks), picture in ((first, 0), (third, 1)):
            features = query[picture].transpose(0, 1).flatten(1)
            expected = farthest_points(features, 5, guaranteed=(0,))
            assert torch.equal(landmarks[picture], expected)
        assert not tiny.model._forward_pre_hooks
