"""Classes against all DAGs; graphs in and out; graphs that are none."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.causal import oracle

from attnchain.causal import EquivalenceClass, enumerate_classes
from attnchain.errors import ArgumentError


@pytest.mark.parametrize(("n", "count"), [(1, 1), (2, 2), (3, 11), (4, 185), (5, 8782)])
def test_enumeration_finds_every_class(n, count):
    found = enumerate_classes(n)
    assert len(found) == count
    assert set(found) == set(oracle.classes(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_dag_has_the_class_of_its_skeleton_and_colliders(n):
    for graph, members in oracle.classes(n).items():
        assert graph.n_nodes == n
        assert tuple(graph.dag()) in members
        for dag in members:
            drawn = oracle.as_networkx(dag)
            assert EquivalenceClass.from_graph(drawn) == graph
            assert graph.n_edges == drawn.number_of_edges()


def random_dag(n, density, seed):
    rng = np.random.default_rng(seed)
    matrix = np.triu(rng.random((n, n)) < density, 1)
    order = rng.permutation(n)
    return matrix[np.ix_(order, order)]


@given(n=st.integers(1, 30), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_class_survives_every_way_out_and_in(n, density, seed):
    graph = EquivalenceClass.from_graph(random_dag(n, density, seed))
    assert EquivalenceClass.from_graph(graph.to_matrix()) == graph
    assert EquivalenceClass.from_graph(graph.to_networkx()) == graph
    assert EquivalenceClass.from_packed(graph.packed(), n) == graph
    dag = oracle.as_networkx(graph.dag())
    assert nx.is_directed_acyclic_graph(dag)
    assert EquivalenceClass.from_graph(dag) == graph


@given(n=st.integers(2, 7), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_above_is_what_paths_that_start_directed_come_from(n, density, seed):
    graph = EquivalenceClass.from_graph(random_dag(n, density, seed))
    walk = nx.DiGraph(graph.to_matrix())
    for x in range(n):
        expected = {
            y
            for z in range(n)
            if nx.has_path(walk, z, x)
            for y in range(n)
            if graph.parents[z] >> y & 1
        }
        assert {y for y in range(n) if graph.above[x] >> y & 1} == expected


def test_names_go_out_with_the_graph():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[0, 1], [0, 0]], index=["a", "b"], columns=["a", "b"])
    graph = EquivalenceClass.from_graph(frame)
    assert set(graph.to_networkx(["a", "b"]).edges) == {("a", "b"), ("b", "a")}


def cycle():
    return nx.DiGraph([(0, 1), (1, 2), (2, 0)])


def long_cycle_beside_undirected():
    return nx.DiGraph([(0, 1), (1, 2), (2, 0), (3, 4), (4, 3)])


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (cycle(), "cycle"),
        (long_cycle_beside_undirected(), "cycle"),
        (np.eye(3), "to itself"),
        (nx.path_graph(3), "DiGraph"),
        (nx.MultiDiGraph([(0, 1), (0, 1)]), "DiGraph"),
        (nx.DiGraph(), "square"),
        (np.zeros((2, 3)), "square"),
        (np.full((2, 2), 0.5), "0 and 1"),
        ([[0, np.nan], [0, 0]], "0 and 1"),
        ([[0, 1], [0]], "equal length"),
        ([["a", "b"], ["c", "d"]], "0 and 1"),
        # 0 -> 1 - 2 with 0, 2 apart: 1 - 2 is compelled
        ([[0, 1, 0], [0, 0, 1], [0, 1, 0]], "not completed"),
        # an undirected square has no DAG without a new collider
        ([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]], "not completed"),
    ],
)
def test_what_is_no_class_is_refused(graph, message):
    with pytest.raises(ArgumentError, match=message):
        EquivalenceClass.from_graph(graph)


def test_names_must_fit():
    graph = EquivalenceClass.empty(2)
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(ArgumentError, match="names must be 2 distinct"):
            graph.to_networkx(names)


@pytest.mark.parametrize("n", [0, 6, 2.0, None])
def test_enumeration_has_a_limit(n):
    with pytest.raises(ArgumentError, match=r"1\.\.5"):
        enumerate_classes(n)
