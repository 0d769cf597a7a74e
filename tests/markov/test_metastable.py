"""metastable_sets: known sets, laws, the choice of their number, refusals."""

import numpy as np
import pytest
import torch
from tests.operators.builders import random_rows

from attnchain import markov, reference
from attnchain.errors import ArgumentError, ReducibleChainError, ShapeError
from attnchain.markov import (
    coarse_grained,
    metastability,
    metastable_levels,
    metastable_sets,
)
from attnchain.operators import (
    AttentionTransition,
    Conditioned,
    Damped,
    DenseTransition,
    Mixture,
    Permuted,
    Restricted,
    as_transition,
    forward_backward,
    is_causal,
)
from attnchain.testing import assert_distribution, chains


def same_partition(left, right):
    left, right = np.asarray(left), np.asarray(right)
    return ((left[:, None] == left) == (right[:, None] == right)).all()


def noisy_blocks(blocks, size, *, coupling=0.05, noise=0.1, seed=0):
    """Blocks with a random chain mixed in: neither symmetric nor reversible."""
    matrix = chains.block_diagonal(blocks, size, coupling).matrix.numpy()
    return (1 - noise) * matrix + noise * random_rows(
        blocks * size, blocks * size, seed=seed
    )


def clustered_attention(n, clusters):
    generator = torch.Generator().manual_seed(0)
    centres = 2.0 * torch.randn(clusters, 16, generator=generator)
    labels = torch.arange(n) % clusters
    q, k = (
        centres[labels] + 0.3 * torch.randn(n, 16, generator=generator)
        for _ in range(2)
    )
    return AttentionTransition(q, k), labels


@pytest.mark.parametrize("count", [None, 3])
def test_coupled_blocks_are_found(count):
    known = chains.block_diagonal(3, 5, 0.02)
    found = metastable_sets(as_transition(known.matrix), count)
    assert same_partition(found.labels, known.labels)
    np.testing.assert_allclose(found.retention, 0.98, atol=1e-6)
    np.testing.assert_allclose(found.prevalence, 1 / 3, atol=1e-6)
    np.testing.assert_allclose(found.coarse, 0.97 * np.eye(3) + 0.01, atol=1e-6)
    np.testing.assert_allclose(found.memberships.max(1).values, 1, atol=1e-6)


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_the_number_of_sets_is_chosen_by_the_largest_gap(blocks):
    found = metastable_sets(as_transition(noisy_blocks(blocks, 6)))
    assert found.memberships.shape == (6 * blocks, blocks)
    assert same_partition(found.labels, np.arange(6 * blocks) // 6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_everything_agrees_with_the_reference(seed):
    matrix = noisy_blocks(3, 6, seed=seed)
    found = metastable_sets(as_transition(matrix), 3)
    expected = reference.metastable_sets(matrix, 3)
    assert same_partition(found.labels, expected.labels)
    # Sets may be numbered differently.
    order = [int(expected.labels[found.labels.tolist().index(s)]) for s in range(3)]
    for name, axes in [("prevalence", 1), ("retention", 1), ("coarse", 2)]:
        wanted = getattr(expected, name)[np.ix_(*[order] * axes)]
        np.testing.assert_allclose(getattr(found, name), wanted, atol=0.02)
    np.testing.assert_allclose(
        found.memberships, expected.memberships[:, order], atol=0.05
    )


def test_clusters_of_keys_are_the_sets():
    chain, labels = clustered_attention(200, 4)
    found = metastable_sets(chain)
    assert same_partition(found.labels, labels)


@pytest.fixture(params=["blocks", "attention", "damped"])
def found(request):
    if request.param == "blocks":
        return metastable_sets(as_transition(noisy_blocks(4, 5)), 4)
    chain, _ = clustered_attention(150, 3)
    return metastable_sets(
        Damped(chain, 0.99) if request.param == "damped" else chain, 3
    )


def test_memberships_and_the_coarse_chain_are_stochastic(found):
    assert_distribution(found.memberships, atol=1e-5)
    torch.testing.assert_close(
        found.coarse.sum(1), torch.ones_like(found.coarse[0]), atol=1e-5, rtol=0
    )


def test_prevalence_and_retention_are_probabilities(found):
    assert_distribution(found.prevalence, atol=1e-5)
    assert ((found.retention >= 0) & (found.retention <= 1 + 1e-6)).all()


def test_labels_are_the_largest_memberships(found):
    torch.testing.assert_close(found.labels, found.memberships.argmax(1))


def test_the_coarse_chain_keeps_the_leading_eigenvalues():
    matrix = noisy_blocks(4, 5)
    found = metastable_sets(as_transition(matrix), 4)
    expected = np.abs(reference.eigenvalues(matrix)[:4])
    kept = np.abs(reference.eigenvalues(found.coarse.double().numpy()))
    np.testing.assert_allclose(kept, expected, atol=1e-5)


def test_prevalence_and_retention_follow_their_definitions():
    matrix = noisy_blocks(3, 5)
    found = metastable_sets(as_transition(matrix), 3)
    pi = reference.stationary(matrix)
    np.testing.assert_allclose(
        found.prevalence, pi @ found.memberships.numpy(), atol=1e-5
    )
    for s in range(3):
        inside = np.flatnonzero(found.labels.numpy() == s)
        start = pi[inside] / pi[inside].sum()
        stays = (start @ matrix[np.ix_(inside, inside)]).sum()
        assert float(found.retention[s]) == pytest.approx(stays, abs=1e-5)


def test_renaming_the_states_renames_the_sets():
    matrix = noisy_blocks(3, 5)
    order = torch.from_numpy(np.random.default_rng(0).permutation(15))
    plain = metastable_sets(as_transition(matrix), 3)
    moved = metastable_sets(Permuted(as_transition(matrix), order), 3)
    assert same_partition(moved.labels, plain.labels[order])


def test_a_known_stationary_distribution_is_not_solved_for_again(monkeypatch):
    both = forward_backward(as_transition(random_rows(12, 12)))
    expected = metastable_sets(both, 3)
    monkeypatch.setattr("attnchain.markov.metastability.stationary", None)
    found = metastable_sets(both, 3, pi=torch.full((12,), 1 / 12))
    torch.testing.assert_close(found.memberships, expected.memberships)
    torch.testing.assert_close(found.prevalence, expected.prevalence)


def test_one_set_is_everything():
    found = metastable_sets(as_transition(random_rows(5, 5)), 1)
    torch.testing.assert_close(found.memberships.double(), torch.ones(5, 1).double())
    torch.testing.assert_close(found.retention.double(), torch.ones(1).double())


def test_a_complex_pair_is_not_split():
    with pytest.raises(ArgumentError, match="complex pair"):
        metastable_sets(as_transition(chains.lazy_cycle(7, 0.8).matrix), 2)


def test_chosen_counts_stay_below_the_largest():
    matrix = noisy_blocks(5, 4)
    assert metastable_sets(as_transition(matrix), max_count=3).coarse.shape[0] <= 3
    with pytest.raises(ArgumentError, match="max_count"):
        metastable_sets(as_transition(matrix), max_count=1)


def test_a_driven_cycle_of_blocks_has_sets_though_it_is_not_reversible():
    # Three blocks visited in turn: slow modes form a complex pair.
    n, size = 15, 5
    labels = np.arange(n) // size
    ahead = (labels[:, None] + 1) % 3 == labels
    matrix = 0.95 * (labels[:, None] == labels) / size + 0.05 * ahead / size
    found = metastable_sets(as_transition(matrix), 3)
    assert same_partition(found.labels, labels)
    np.testing.assert_allclose(found.retention, 0.95, atol=1e-6)


@pytest.mark.parametrize("count", [0, 16, -1, 2.5, float("nan"), "3", True])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ArgumentError, match="count"):
        metastable_sets(as_transition(noisy_blocks(3, 5)), count)


def test_batches_are_refused():
    with pytest.raises(ShapeError, match=r"one chain|single chain"):
        metastable_sets(DenseTransition(torch.from_numpy(random_rows(2, 5, 5))), 2)


@pytest.mark.parametrize(
    "known", [chains.block_diagonal(2, 3, 0.0), chains.absorbing_causal(4)]
)
def test_reducible_chains_are_refused(known):
    with pytest.raises(ReducibleChainError):
        metastable_sets(as_transition(known.matrix), 2)


def in_another_order(matrix, seed=0):
    order = np.random.default_rng(seed).permutation(len(matrix))
    return matrix[np.ix_(order, order)], order


def assert_same_sets(found, labels, states=slice(None)):
    for values in (found.retention, found.coarse, found.prevalence, found.memberships):
        assert bool(values.isfinite().all())
    assert found.coarse.shape[0] == len(set(labels.tolist()))
    assert same_partition(found.labels[states], labels[states])


@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("token", [0, 7, 14])
@pytest.mark.parametrize("rarer", [1e-5, np.exp(-36), 1e-20, 1e-30, 1e-100])
def test_a_token_hardly_ever_entered_belongs_where_it_goes(rarer, token, count):
    matrix = noisy_blocks(3, 5)
    matrix[:, token] *= rarer
    matrix /= matrix.sum(-1, keepdims=True)
    labels = np.arange(15) // 5
    assert_same_sets(metastable_sets(as_transition(matrix), count), labels)


@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("coupling", [0.02, 0.3, 0.45, 0.6])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_weakly_coupled_blocks_in_any_order(coupling, noise, count):
    matrix = noisy_blocks(3, 6, coupling=coupling, noise=noise)
    matrix, order = in_another_order(matrix)
    assert_same_sets(metastable_sets(as_transition(matrix), count), order // 6)


@pytest.mark.parametrize("coupling", [0.02, 0.3, 0.45])
@pytest.mark.parametrize("blocks", [3, 4])
def test_states_on_their_way_do_not_shape_the_sets(blocks, coupling):
    # Four states that are seldom entered and left at once for anywhere.
    n, on_the_way = 6 * blocks, 4
    inner = noisy_blocks(blocks, 6, coupling=coupling, noise=0.02)
    matrix = np.full((n + on_the_way, n + on_the_way), 1e-3)
    matrix[:n, :n] = (1 - on_the_way * 1e-3) * inner
    matrix[n:] = random_rows(on_the_way, n + on_the_way)
    moved, order = in_another_order(matrix)
    found = metastable_sets(as_transition(moved), blocks)
    lasting = order < n
    assert same_partition(found.labels[lasting], order[lasting] // 6)


def driven(blocks, size, stay):
    labels = np.arange(blocks * size) // size
    ahead = (labels[:, None] + 1) % blocks == labels
    same = labels[:, None] == labels
    return (stay * same + (1 - stay) * ahead) / size, labels


@pytest.mark.parametrize("stay", [0.95, 0.8])
@pytest.mark.parametrize("blocks", [3, 4, 5, 6, 7, 11])
def test_blocks_visited_in_turn_are_counted(blocks, stay):
    matrix, labels = driven(blocks, 5, stay)
    matrix = 0.97 * matrix + 0.03 * random_rows(len(matrix), len(matrix))
    moved, order = in_another_order(matrix)
    found = metastable_sets(as_transition(moved), max_count=12)
    assert_same_sets(found, labels[order])


def test_levels_come_from_one_decomposition(monkeypatch):
    chain = as_transition(noisy_blocks(4, 6))
    levels = metastable_levels(chain)
    for level in levels:
        alone = metastable_sets(chain, len(level.prevalence))
        torch.testing.assert_close(
            level.prevalence, alone.prevalence, atol=1e-3, rtol=0
        )
    calls = []
    solve = metastability.spectrum

    def counted(*args, **options):
        calls.append(args)
        return solve(*args, **options)

    monkeypatch.setattr(metastability, "spectrum", counted)
    assert len(metastable_sets(chain).prevalence) == 4
    assert len(calls) == 1


def test_crispness_is_that_of_its_definition():
    matrix = noisy_blocks(3, 5)
    found = metastable_sets(as_transition(matrix), 3)
    pi, soft = reference.stationary(matrix), found.memberships.numpy()
    expected = np.diag(soft.T @ np.diag(pi) @ soft / (pi @ soft)[:, None]).mean()
    assert float(found.crispness) == pytest.approx(expected, abs=1e-6)
    assert 1 / 3 < expected < 1


def test_numbers_that_part_one_modulus_are_refused_and_left_out():
    chain = as_transition(chains.block_diagonal(4, 3, 0.1).matrix)
    with pytest.raises(ArgumentError, match="equal moduli"):
        metastable_sets(chain, 3)
    assert [len(level.prevalence) for level in metastable_levels(chain)] == [4]
    with pytest.raises(ArgumentError, match="max_count"):
        metastable_sets(chain, max_count=3)


def test_a_chain_without_memory_has_no_sets():
    with pytest.raises(ArgumentError, match="no metastable sets"):
        metastable_sets(as_transition(np.full((40, 40), 1 / 40)))


def test_causal_attention_is_refused_before_anything_is_solved(monkeypatch):
    monkeypatch.setattr(metastability, "spectrum", None)
    monkeypatch.setattr(metastability, "stationary", None)
    q = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ReducibleChainError, match="causal"):
        metastable_sets(AttentionTransition(q, q, causal=True))


def test_reducible_chains_are_refused_before_their_spectrum(monkeypatch):
    monkeypatch.setattr(metastability, "spectrum", None)
    with pytest.raises(ReducibleChainError):
        metastable_sets(as_transition(chains.absorbing_causal(200).matrix), 2)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([[1, 0, 0], [1, 0, 0], [0, 1, 0]], "holds no stationary"),
        ([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]], "same members"),
        ([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]], "largest membership"),
    ],
    ids=["empty", "doubled", "never the largest"],
)
def test_sets_that_are_none_are_refused(given, match):
    chain = as_transition(random_rows(3, 3))
    with pytest.raises(ArgumentError, match=match):
        coarse_grained(chain, torch.tensor(given, dtype=torch.float64))


def test_no_sets_at_all_are_refused():
    with pytest.raises(ShapeError, match="memberships"):
        coarse_grained(as_transition(random_rows(3, 3)), torch.zeros(3, 0))


@pytest.mark.parametrize(
    "question",
    [
        metastable_sets,
        metastable_levels,
        lambda chain: coarse_grained(chain, torch.eye(3)),
        lambda chain: markov.spectrum(chain, 2),
        markov.second_eigenvalue,
        markov.leading_subspaces,
        markov.spectral_gap,
        lambda chain: markov.mixing_time(chain, torch.full((3,), 1 / 3)),
    ],
)
def test_a_tensor_is_no_chain(question):
    with pytest.raises(ArgumentError, match="transition"):
        question(torch.full((3, 3), 1 / 3))


@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_causality_is_seen_before_any_product(backend, monkeypatch):
    """Heads, their mixture, padded texts and masks that hide later tokens."""
    q, k = torch.randn(2, 3, 6, 4)
    heads = AttentionTransition(q, k, causal=True, backend=backend)
    later = torch.ones(6, 6).tril().bool()
    masked = AttentionTransition(q, k, mask=later, backend=backend)
    added = AttentionTransition(q, k, mask=later.float().log(), backend=backend)

    def no_product(*_):
        raise AssertionError("a product was formed")

    monkeypatch.setattr(AttentionTransition, "_product", no_product)
    even = [torch.full((3,), 1 / 3)]
    for chain in (heads[0], masked[0], added[0], Mixture([heads], even)):
        assert is_causal(chain)
        with pytest.raises(ReducibleChainError, match="never left for later tokens"):
            metastable_sets(chain)
    mixture, offered = Mixture([heads], even), torch.full((6,), 1 / 6)
    assert is_causal(Restricted(mixture, torch.tensor([0, 2, 5])))
    assert is_causal(Conditioned(mixture, offered))
    assert not is_causal(Restricted(mixture, torch.tensor([2, 0, 5])))
    whole = AttentionTransition(q, k, mask=later.roll(1, 1), backend=backend)
    assert not is_causal(whole)
    assert not is_causal(Restricted(whole, torch.tensor([0, 2, 5])))
    assert not is_causal(Mixture([whole], even))
