"""Moves against all DAGs, and against the operators' conditions word by word."""

from collections import Counter
from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tests.causal import oracle
from tests.causal.test_classes import random_dag

from attnchain.causal import (
    DELETE,
    INSERT,
    EquivalenceClass,
    Move,
    apply_move,
    count_moves,
    draw_move,
    is_valid,
    list_moves,
)
from attnchain.causal.cliques import below, count_cliques, draw_clique, list_cliques
from attnchain.errors import ArgumentError


@pytest.mark.parametrize(("n", "count"), [(1, 0), (2, 2), (3, 36), (4, 1128)])
def test_moves_and_multiplicities_are_those_of_dags(n, count):
    groups = oracle.classes(n)
    inserts, deletes = oracle.moves(groups)
    for kind, expected in ((INSERT, inserts), (DELETE, deletes)):
        found = Counter()
        for graph in groups:
            moves = list(list_moves(graph, kind))
            assert len(set(moves)) == len(moves) == count_moves(graph, kind)
            found.update((graph, apply_move(graph, move)) for move in moves)
        assert found == expected
        assert found.total() == count
    assert {(b, a): m for (a, b), m in deletes.items()} == inserts


@pytest.mark.slow
def test_insertions_match_deletions_on_five_nodes():
    groups = oracle.classes(5)
    forth, back = Counter(), Counter()
    for graph in groups:
        forth.update((graph, apply_move(graph, m)) for m in list_moves(graph, INSERT))
        back.update((apply_move(graph, m), graph) for m in list_moves(graph, DELETE))
    assert forth == back
    assert forth.total() == 79480
    assert max(forth.values()) == 2


@given(n=st.integers(2, 6), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_the_list_is_what_the_conditions_allow(n, density, seed):
    graph = EquivalenceClass.from_graph(random_dag(n, density, seed))
    every = product((INSERT, DELETE), range(n), range(n), range(1 << n))
    valid = {Move(*parts) for parts in every if is_valid(graph, Move(*parts))}
    listed = [*list_moves(graph, INSERT), *list_moves(graph, DELETE)]
    assert len(listed) == len(valid)
    assert set(listed) == valid


@given(n=st.integers(2, 25), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_move_changes_one_pair_and_stays_a_class(n, density, seed):
    graph = EquivalenceClass.from_graph(random_dag(n, density, seed))
    generator = np.random.default_rng(seed)
    for kind in (INSERT, DELETE):
        if not count_moves(graph, kind):
            continue
        move = draw_move(graph, kind, generator)
        assert is_valid(graph, move)
        reached = apply_move(graph, move)
        assert EquivalenceClass.from_graph(reached.to_matrix()) == reached
        before, after = (
            np.maximum(m, m.T) for m in (g.to_matrix() for g in (graph, reached))
        )
        assert set(zip(*np.nonzero(before != after), strict=True)) == {
            (move.x, move.y),
            (move.y, move.x),
        }


def test_draws_are_uniform():
    star = nx.DiGraph([(0, i) for i in range(1, 5)])
    graph = EquivalenceClass.from_graph(star)
    generator = np.random.default_rng(0)
    for kind in (INSERT, DELETE):
        moves = list(list_moves(graph, kind))
        drawn = Counter(
            draw_move(graph, kind, generator) for _ in range(200 * len(moves))
        )
        assert set(drawn) <= set(moves)
        assert chisquare([drawn[move] for move in moves]).pvalue > 1e-3


def test_a_complete_graph_is_counted_though_it_cannot_be_listed():
    n = 80
    full = EquivalenceClass.from_graph(np.triu(np.ones((n, n)), 1))
    assert count_moves(full, INSERT) == 0
    assert count_moves(full, DELETE) == n * (n - 1) << (n - 2)
    move = draw_move(full, DELETE, np.random.default_rng(0))
    assert apply_move(full, move).n_edges == full.n_edges - 1


def chordal(n, density, seed):
    """Neighbours in a chordal graph: random edges, filled in along an order."""
    near = [0] * n
    for i, j in np.argwhere(random_dag(n, density, seed)):
        near[i] |= 1 << int(j)
        near[j] |= 1 << int(i)
    for v in range(n):
        later = [u for u in range(v + 1, n) if near[v] >> u & 1]
        for u, w in product(later, later):
            if u != w:
                near[u] |= 1 << w
    return tuple(near)


@given(n=st.integers(1, 9), density=st.floats(0, 0.6), seed=st.integers(0, 999))
def test_cliques_are_those_of_networkx(n, density, seed):
    near = chordal(n, density, seed)
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((i, j) for i in range(n) for j in range(n) if near[i] >> j & 1)
    expected = {frozenset(c) for c in nx.enumerate_all_cliques(graph)} | {frozenset()}
    listed = list(list_cliques(near, (1 << n) - 1))
    found = {frozenset(v for v in range(n) if c >> v & 1) for c in listed}
    assert found == expected
    assert len(listed) == len(expected) == count_cliques(near, (1 << n) - 1)


def test_cliques_are_drawn_uniformly():
    near, generator = chordal(7, 0.4, 3), np.random.default_rng(1)
    listed = list(list_cliques(near, 127))
    assert len(listed) > 10
    drawn = Counter(draw_clique(near, 127, generator) for _ in range(200 * len(listed)))
    assert chisquare([drawn[clique] for clique in listed]).pvalue > 1e-3


def test_numbers_below_a_large_limit():
    generator, limit = np.random.default_rng(0), 3 << 70
    drawn = [below(limit, generator) for _ in range(3000)]
    assert all(0 <= number < limit for number in drawn)
    thirds = Counter(number // (1 << 70) for number in drawn)
    assert chisquare([thirds[i] for i in range(3)]).pvalue > 1e-3


@pytest.mark.parametrize(
    "move",
    [
        Move(INSERT, 0, 1, 0),  # adjacent already
        Move(DELETE, 0, 2, 0),  # not adjacent
        Move(INSERT, 0, 3, 0),  # the path 3 - 2 - 1 - 0 is open
        Move(DELETE, 0, 1, 0b100),  # H is not among the shared neighbours
        Move(INSERT, 0, 0, 0),
        Move(INSERT, 0, 9, 0),
        Move(7, 0, 2, 0),
    ],
)
def test_moves_that_are_not_valid_are_refused(move):
    chain = EquivalenceClass.from_graph(nx.DiGraph([(0, 1), (1, 2), (2, 3)]))
    with pytest.raises(ArgumentError, match="not a valid move"):
        apply_move(chain, move)


def test_kinds_and_empty_lists_are_refused():
    empty = EquivalenceClass.empty(2)
    with pytest.raises(ArgumentError, match="kind must be"):
        count_moves(empty, 2)
    with pytest.raises(ArgumentError, match="no move of this kind"):
        draw_move(empty, DELETE, np.random.default_rng(0))
