"""Sets of nodes as whole numbers: bit i says that node i is in the set."""

from collections.abc import Iterable, Iterator


def members(nodes: int) -> Iterator[int]:
    """The nodes of a set, in rising order.

    Example:
        >>> list(members(0b1010))
        [1, 3]
    """
    while nodes:
        lowest = nodes & -nodes
        yield lowest.bit_length() - 1
        nodes ^= lowest


def set_of(nodes: Iterable[int]) -> int:
    """The set of the given nodes.

    Example:
        >>> set_of([1, 3]) == 0b1010
        True
    """
    mask = 0
    for node in nodes:
        mask |= 1 << node
    return mask


def flood(neighbors: tuple[int, ...], start: int, within: int) -> int:
    """All nodes reached from a set over undirected edges without leaving `within`."""
    reached = start
    todo = start
    while todo:
        lowest = todo & -todo
        new = neighbors[lowest.bit_length() - 1] & within & ~reached
        reached |= new
        todo = (todo ^ lowest) | new
    return reached


def is_clique(neighbors: tuple[int, ...], nodes: int) -> bool:
    """Whether every two nodes of the set are joined by an undirected edge."""
    return all(not nodes & ~neighbors[v] & ~(1 << v) for v in members(nodes))


def common(neighbors: tuple[int, ...], nodes: int, pool: int) -> int:
    """The nodes of the pool that are neighbours of every node of the set."""
    for node in members(nodes):
        pool &= neighbors[node]
    return pool
