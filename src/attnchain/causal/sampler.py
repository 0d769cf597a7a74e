"""Sampling classes: a run that can be prolonged, watched, saved and taken up again."""

import json
import time
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from attnchain.causal.checkpoints import fingerprint, read_run, restored, write_run
from attnchain.causal.equivalence import EquivalenceClass
from attnchain.causal.moves import INSERT, moved
from attnchain.causal.posteriors import ClassSample
from attnchain.causal.process import PROCESSES, Process, next_event
from attnchain.causal.rates import BALANCES, Balance, Rates
from attnchain.causal.scores import Score
from attnchain.checks import check_whole
from attnchain.errors import ArgumentError

_SAVE_EVERY = 30.0
"""Seconds between two writings of a checkpoint."""
_SHOW_EVERY = 64
"""Events between two steps of the progress bar."""


class ClassSampler:
    """A Markov process over equivalence classes with a given stationary law.

    Args:
        score: The target: `UniformScore`, `GaussianBic`, `BDeu` or your own `Score`.
        process: "zigzag", with momentum, or "reversible".
        balance: g of the rates: "metropolis" min(1, t), "sqrt" or "barker" t / (1 + t).
        start: Where to begin; by default the class without edges.
        generator: A NumPy generator or a seed; equal seeds give equal runs.

    Raises:
        ArgumentError: An unknown process or balance, a start that does not fit the
            score, or fewer than two nodes.

    Example:
        >>> from attnchain.causal import UniformScore
        >>> sample = ClassSampler(UniformScore(3), generator=0).run(2000)
        >>> sample.posterior().probabilities.shape  # all eleven classes
        (11,)
    """

    def __init__(
        self,
        score: Score,
        *,
        process: Process = "zigzag",
        balance: Balance = "metropolis",
        start: EquivalenceClass | None = None,
        generator: np.random.Generator | int = 0,
    ) -> None:
        check_choice(process, "process", PROCESSES)
        check_choice(balance, "balance", BALANCES)
        self.score = score
        self.process: Process = process
        self.balance: Balance = balance
        self._graph = _checked_start(start, len(score.names))
        self._direction = INSERT
        self._generator = _as_generator(generator)
        self._rates = Rates(score, balance)
        self._graphs: list[bytes] = []
        self._log_holding: list[float] = []
        self._changes: list[int] = []
        self._moves = 0

    def run(
        self,
        moves: int,
        *,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> ClassSample:
        """Goes on until the run has this many moves in all.

        Args:
            moves: Number of moves since the start, earlier calls included.
            checkpoint: File the run is written to at once, every half minute and at
                the end, for `load`. Another run in it is never written over.
            progress: Show a bar on standard error.

        Returns:
            The whole path so far.

        Raises:
            ArgumentError: Not a whole number of at least 1, or the checkpoint holds
                something else than an earlier state of this run.
            OutputError: The checkpoint cannot be written.
        """
        check_whole(moves, "moves")
        if checkpoint:
            self._claim(Path(checkpoint))
        saved = time.monotonic()
        with _Bar(moves, shown=progress) as bar:
            while self._moves < moves:
                self._advance()
                if len(self._graphs) % _SHOW_EVERY:
                    continue
                bar.show(self._moves)
                if checkpoint and time.monotonic() - saved > _SAVE_EVERY:
                    self.save(checkpoint)
                    saved = time.monotonic()
            bar.show(self._moves)
        if checkpoint:
            self.save(checkpoint)
        return self._sample()

    def save(self, path: str | Path) -> None:
        """Writes the run, to be taken up by `load` exactly where it was left.

        Raises:
            OutputError: The file cannot be written; an earlier one is kept.
        """
        settings = {
            "process": self.process,
            "balance": self.balance,
            "direction": self._direction,
            "target": fingerprint(self.score),
            "generator": self._generator.bit_generator.state,
            "graph": [list(self._graph.parents), list(self._graph.neighbors)],
        }
        rows = {
            "graphs": np.frombuffer(b"".join(self._graphs), np.uint8),
            "log_holding": np.array(self._log_holding),
            "changes": np.array(self._changes, dtype=np.int8),
        }
        write_run(Path(path), settings, rows)

    @classmethod
    def load(cls, path: str | Path, score: Score) -> "ClassSampler":
        """Takes up a run that was saved.

        Args:
            path: What `save` or `run` wrote.
            score: The same target; the file does not hold the data.

        Raises:
            ArgumentError: No run can be read from the file, or it is of another target.
        """
        parts = read_run(Path(path))
        settings = json.loads(str(parts["settings"]))
        if settings["target"] != fingerprint(score):
            message = (
                f"the run in {path} is of another target (names, data or settings of "
                "the score differ); give the score it was made with"
            )
            raise ArgumentError(message)
        sampler = cls(
            score,
            process=settings["process"],
            balance=settings["balance"],
            generator=restored(settings["generator"]),
        )
        sampler._restore(settings, parts)
        return sampler

    def _claim(self, path: Path) -> None:
        """Writes the checkpoint, unless that would lose another run."""
        if path.exists():
            rows = read_run(path)["graphs"].tobytes()
            if not b"".join(self._graphs).startswith(rows):
                message = (
                    f"{path} holds another run, or more of this one: take it up with "
                    "ClassSampler.load, or choose another file"
                )
                raise ArgumentError(message)
        self.save(path)

    def _restore(self, settings: dict[str, Any], parts: dict[str, np.ndarray]) -> None:
        self._graph = EquivalenceClass(*map(tuple, settings["graph"]))
        self._direction = settings["direction"]
        self._log_holding = parts["log_holding"].tolist()
        self._changes = parts["changes"].tolist()
        rows = parts["graphs"].reshape(len(self._changes), -1)
        self._graphs = [row.tobytes() for row in rows]
        self._moves = sum(change != 0 for change in self._changes)

    def _advance(self) -> None:
        """One event."""
        outlooks = self._rates.outlooks(self._graph)
        event = next_event(self.process, outlooks, self._direction, self._generator)
        self._graphs.append(self._graph.packed())
        self._log_holding.append(event.log_holding)
        self._changes.append(event.move.kind if event.move else 0)
        self._direction = event.direction
        if event.move:
            self._graph = moved(self._graph, event.move)
            self._moves += 1

    def _sample(self) -> ClassSample:
        n = len(self.score.names)
        graphs = np.frombuffer(b"".join(self._graphs), np.uint8)
        return ClassSample(
            tuple(self.score.names),
            graphs.reshape(-1, n, (n + 7) // 8),
            np.array(self._log_holding),
            np.array(self._changes, dtype=np.int8),
        )


class _Bar:
    """A progress bar on standard error, or nothing."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._progress = self._task = None
        if shown:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True))
            self._task = self._progress.add_task("moves", total=total)

    def __enter__(self) -> "_Bar":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, done: int) -> None:
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=done)


def check_choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    """Raises ArgumentError unless the argument is one of the choices."""
    if value not in choices:
        raise ArgumentError(f"{name} must be one of {choices}, but is {value!r}")


def _checked_start(start: EquivalenceClass | None, n: int) -> EquivalenceClass:
    if n < 2:
        raise ArgumentError(f"a sampler needs at least two nodes; the score has {n}")
    if start is None:
        return EquivalenceClass.empty(n)
    if not isinstance(start, EquivalenceClass) or start.n_nodes != n:
        message = f"start must be an EquivalenceClass of {n} nodes, but is {start!r}"
        raise ArgumentError(message)
    if EquivalenceClass.from_graph(start.to_matrix()) != start:
        message = f"start must be a completed graph: {start!r} directs too much"
        raise ArgumentError(message)
    return start


def _as_generator(generator: object) -> np.random.Generator:
    if isinstance(generator, np.random.Generator):
        return generator
    if isinstance(generator, Integral) and int(generator) >= 0:
        return np.random.default_rng(int(generator))
    message = f"generator must be a numpy Generator or a seed >= 0, not {generator!r}"
    raise ArgumentError(message)
