"""From a class to one of its DAGs and back: which edges are compelled.

Graphs are tuples of sets: `parents[v]` holds the nodes with an edge into v that is
directed, `neighbors[v]` those joined to v by an undirected edge.
"""

from attnchain.causal.bitsets import flood, members


def topological_order(parents: list[int]) -> list[int] | None:
    """Nodes with all parents first, or None where the directed edges have a cycle."""
    order: list[int] = []
    placed = 0
    for root in range(len(parents)):
        path = [root]
        while path:
            node = path[-1]
            missing = parents[node] & ~placed
            if missing:
                path.append((missing & -missing).bit_length() - 1)
                if len(path) > len(parents):
                    return None
                continue
            path.pop()
            if not placed >> node & 1:
                placed |= 1 << node
                order.append(node)
    return order


def completed(
    parents: list[int], order: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The class of a DAG: parents by compelled edges, neighbours by the others.

    Chickering's edge labelling (A transformational characterization of equivalent
    Bayesian network structures, UAI 1995), one node at a time: of the edges into y,
    that of the last parent x decides. A compelled parent of x that is no parent of y,
    or a parent of y that is not adjacent to x, compels all of them.
    """
    compelled = [0] * len(parents)
    neighbors = [0] * len(parents)
    for place, y in enumerate(order):
        into = parents[y]
        if not into:
            continue
        x = next(v for v in reversed(order[:place]) if into >> v & 1)
        strangers = into & ~parents[x] & ~(1 << x)
        inherited = compelled[x]
        if inherited & ~into or strangers:
            compelled[y] = into
            continue
        compelled[y] = inherited
        for free in members(into & ~inherited):
            neighbors[y] |= 1 << free
            neighbors[free] |= 1 << y
    return tuple(compelled), tuple(neighbors)


def consistent_dag(
    parents: tuple[int, ...], neighbors: tuple[int, ...], first: tuple[int, ...] = ()
) -> list[int]:
    """Parents in a DAG of the class in which the given nodes of a component are first.

    Every undirected component is chordal; maximum cardinality search orders it so
    that no new collider arises. `first` must be a clique of one component.
    """
    oriented = list(parents)
    placed = 0
    for start in (*first, *range(len(parents))):
        if not neighbors[start] or placed >> start & 1:
            continue
        component = flood(neighbors, 1 << start, -1)
        ahead = [v for v in first if component >> v & 1]
        for node in cardinality_order(neighbors, component, ahead):
            oriented[node] |= neighbors[node] & placed
            placed |= 1 << node
    return oriented


def cardinality_order(
    neighbors: tuple[int, ...], pool: int, ahead: list[int] | tuple[int, ...] = ()
) -> list[int]:
    """Maximum cardinality search: next comes who has most neighbours so far.

    In a chordal graph the earlier neighbours of every node are a clique.
    """
    order = list(ahead)
    placed = 0
    for node in order:
        placed |= 1 << node
    rest = list(members(pool & ~placed))
    while rest:
        best = max(rest, key=lambda v: (neighbors[v] & placed).bit_count())
        rest.remove(best)
        order.append(best)
        placed |= 1 << best
    return order
