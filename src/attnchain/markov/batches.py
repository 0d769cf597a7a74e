"""Many small chains at once: a thread for each instead of several for each product."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Semaphore
from typing import Any, TypeVar

import torch

from attnchain.errors import ShapeError
from attnchain.operators import (
    AbstractTransition,
    check_transition,
    fits_budget,
    full_precision,
)

Result = TypeVar("Result")

SHARED_LIMIT = 2_048
"""Products of larger chains keep all threads busy by themselves."""


@full_precision
def for_each_chain(
    solve: Callable[..., Result], transition: AbstractTransition, *others: Sequence[Any]
) -> list[Result]:
    """Solves every chain of a batch, in flattened order.

    Small chains on a CPU are solved side by side, each by one of torch's threads: the
    many short products of a solver leave several threads waiting for each other. No
    more chains at once than matrices fit the memory budget. Autocast is off meanwhile.

    Args:
        solve: What to do with one chain; it may run in another thread.
        transition: One chain or a batch.
        others: More arguments of `solve`, one for each chain.

    Returns:
        One result for each chain.

    Raises:
        ArgumentError: No transition.
        ShapeError: The batch holds no chain.
    """
    check_transition(transition)
    count = math.prod(transition.batch_shape)
    if count == 0:
        raise ShapeError(f"{transition!r} holds no chain")
    # Drawn one by one: what a solver keeps with a chain goes with it.
    jobs = zip(transition.chains(), *others, strict=True)
    workers = _workers(transition, count)
    if workers < 2:
        return [solve(*job) for job in jobs]
    return _side_by_side(solve, jobs, workers)


def fewest_states(transition: AbstractTransition) -> int:
    """States that every chain of the batch has at least."""
    live = transition.live
    return transition.n_states if live is None else int(live.sum(-1).min())


def _workers(transition: AbstractTransition, chains: int) -> int:
    n, device = transition.n_states, transition.device
    workers = min(torch.get_num_threads(), chains)
    if device.type != "cpu" or n > SHARED_LIMIT:
        return 1
    while workers > 1 and not _fit(workers, n, device):
        workers -= 1
    return workers


def _fit(workers: int, n: int, device: torch.device) -> bool:
    """Whether each may keep a double and a single precision matrix."""
    return fits_budget(torch.Size((2 * workers, n, n)), torch.float64, device)


def _side_by_side(
    solve: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int
) -> list[Result]:
    threads, entered, start = torch.get_num_threads(), Semaphore(0), Event()
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def enter() -> None:
        torch.get_num_threads()  # the first use in a thread would undo the next line
        torch.set_num_threads(1)
        entered.release()
        start.wait()

    def solved(job: tuple[Any, ...]) -> Result:
        # Both modes belong to a thread, and are those of the caller here.
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return solve(*job)

    pool = ThreadPoolExecutor(workers, "chain", enter)
    try:
        try:
            results = pool.map(solved, jobs)
            for _ in range(workers):
                entered.acquire()
        finally:
            # A thread keeps its number; new threads of the program get the last one.
            torch.set_num_threads(threads)
            start.set()
        return list(results)
    finally:
        pool.shutdown(cancel_futures=True)
