"""Classes and moves from DAGs alone: what the library's short cuts must agree with."""

from collections import Counter, defaultdict
from itertools import combinations, product

import networkx as nx

from attnchain.causal import EquivalenceClass


def dags(n):
    """Parents of every node, for every DAG on n nodes."""
    pairs = list(combinations(range(n), 2))
    for kinds in product((0, 1, 2), repeat=len(pairs)):
        parents = [0] * n
        for (i, j), kind in zip(pairs, kinds, strict=True):
            if kind:
                tail, head = (i, j) if kind == 1 else (j, i)
                parents[head] |= 1 << tail
        if is_acyclic(parents):
            yield tuple(parents)


def is_acyclic(parents):
    left = set(range(len(parents)))
    while left:
        mask = sum(1 << v for v in left)
        sources = {v for v in left if not parents[v] & mask}
        if not sources:
            return False
        left -= sources
    return True


def signature(parents):
    """Skeleton and colliders: what two DAGs share exactly where they are equivalent."""
    n = len(parents)
    joined = {
        frozenset((i, j)) for j in range(n) for i in range(n) if parents[j] >> i & 1
    }
    colliders = {
        (frozenset((i, k)), j)
        for j in range(n)
        for i, k in combinations([v for v in range(n) if parents[j] >> v & 1], 2)
        if frozenset((i, k)) not in joined
    }
    return frozenset(joined), frozenset(colliders)


def classes(n):
    """The DAGs of every class, by its completed graph: directed where all agree."""
    groups = defaultdict(list)
    for parents in dags(n):
        groups[signature(parents)].append(parents)
    return {completed(members): members for members in groups.values()}


def completed(members):
    parents, neighbors = [], []
    for v in range(len(members[0])):
        always, ever = -1, 0
        for dag in members:
            always &= dag[v]
            ever |= dag[v]
        parents.append(always)
        neighbors.append(ever & ~always)
    for v, mask in enumerate(neighbors):
        for u in range(len(neighbors)):
            if mask >> u & 1:
                neighbors[u] |= 1 << v
    return EquivalenceClass(tuple(parents), tuple(neighbors))


def moves(groups):
    """Multiplicity of (from, to) for insertions and for deletions.

    A move (x, y, subset) is an edge x -> y added to, or removed from, a DAG of the
    class; DAGs that differ elsewhere than in the neighbours that are parents of y
    (insertions) or children of y (deletions) give the same one.
    """
    home = {dag: graph for graph, members in groups.items() for dag in members}
    inserts, deletes = defaultdict(set), defaultdict(set)
    for dag, graph in home.items():
        for y in range(len(dag)):
            near = graph.neighbors[y]
            for x in set(range(len(dag))) - {y}:
                apart = near & ~graph.adjacent[x]
                shared = near & graph.adjacent[x]
                changed = list(dag)
                changed[y] ^= 1 << x
                other = home.get(tuple(changed))
                if dag[y] >> x & 1:
                    deletes[graph, other].add((x, y, shared & ~dag[y]))
                elif not dag[x] >> y & 1 and other:
                    inserts[graph, other].add((x, y, apart & dag[y]))
    return tuple(
        Counter({pair: len(found) for pair, found in kind.items()})
        for kind in (inserts, deletes)
    )


def as_networkx(dag):
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(dag)))
    graph.add_edges_from(
        (u, v) for v, mask in enumerate(dag) for u in range(len(dag)) if mask >> u & 1
    )
    return graph
