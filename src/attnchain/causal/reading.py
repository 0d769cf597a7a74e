"""What users have, read and checked: graphs and tables of data."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from attnchain.errors import ArgumentError


def read_graph(graph: Any) -> Bool[np.ndarray, "n n"]:
    """Edges of a networkx graph, an array or a data frame: [i, j] from i to j."""
    if hasattr(graph, "is_directed"):
        matrix = _networkx_edges(graph)
    else:
        matrix = _as_array(graph, "graph")
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 0
    if not square:
        message = f"graph must be a square matrix, but has shape {matrix.shape}"
        raise ArgumentError(message)
    if matrix.dtype.kind not in "biuf" or not np.isin(matrix, (0, 1)).all():
        raise ArgumentError("graph must hold only 0 and 1: an edge from i to j or none")
    edges = matrix.astype(bool)
    if edges.diagonal().any():
        node = int(np.flatnonzero(edges.diagonal())[0])
        message = f"graph has an edge from node {node} to itself; remove it"
        raise ArgumentError(message)
    return edges


def _networkx_edges(graph: Any) -> np.ndarray:
    if not graph.is_directed() or graph.is_multigraph():
        message = (
            f"graph must be a networkx.DiGraph, but is a {type(graph).__name__}; an "
            "undirected edge is written as one in each direction"
        )
        raise ArgumentError(message)
    place = {name: i for i, name in enumerate(graph.nodes)}
    matrix = np.zeros((len(place), len(place)), dtype=bool)
    for tail, head in graph.edges:
        matrix[place[tail], place[head]] = True
    return matrix


def _as_array(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        message = f"{name} must be rows of equal length, but could not be read: {error}"
        raise ArgumentError(message) from error


def read_table(data: Any) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Columns and their names of an array or a data frame, none of them missing.

    Raises:
        ArgumentError: Not a table, fewer than two rows, no column, names given twice,
            or a missing value.
    """
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        names = tuple(str(name) for name in data.columns)
        columns = [np.asarray(data.iloc[:, i]) for i in range(len(names))]
    else:
        table = _as_array(data, "data")
        if table.ndim != 2:
            message = f"data must be rows by variables, but has shape {table.shape}"
            raise ArgumentError(message)
        names = tuple(f"x{i}" for i in range(table.shape[1]))
        columns = list(table.T)
    if not columns or len(columns[0]) < 2:
        rows = len(columns[0]) if columns else 0
        message = (
            f"data must have at least one variable and two rows, but has "
            f"{len(columns)} variables and {rows} rows"
        )
        raise ArgumentError(message)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ArgumentError(f"data has several columns named {twice}; rename them")
    for name, column in zip(names, columns, strict=True):
        check_present(column, name)
    return columns, names


def check_present(column: np.ndarray, name: str) -> None:
    """Raises ArgumentError where a value is missing or the column is constant."""
    values = column.tolist()
    missing = np.array([_is_missing(value) for value in values])
    if missing.any():
        message = (
            f"column {name!r} has {int(missing.sum())} missing values, the first in "
            f"row {int(np.flatnonzero(missing)[0])}; drop those rows or fill them in"
        )
        raise ArgumentError(message)
    if all(value == values[0] for value in values):
        message = f"column {name!r} is constant ({values[0]!r}): drop the column"
        raise ArgumentError(message)


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA."""
    return value is None or str(value) in {"nan", "NaT", "<NA>"}
