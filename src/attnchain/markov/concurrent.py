"""Many small chains at once: a thread for each instead of several for each product."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from attnchain.operators import AbstractTransition, fits_budget

Result = TypeVar("Result")

SHARED_LIMIT = 2_048
"""Products of larger chains keep all threads busy by themselves."""


def for_each_chain(
    solve: Callable[..., Result], transition: AbstractTransition, *others: Sequence[Any]
) -> list[Result]:
    """Solves every chain of a batch, in flattened order.

    Small chains on a CPU are solved side by side, each by one of torch's threads: the
    many short products of a solver leave several threads waiting for each other. No
    more chains at once than matrices fit the memory budget.

    Args:
        solve: What to do with one chain; it may run in another thread.
        transition: One chain or a batch.
        others: More arguments of `solve`, one for each chain.

    Returns:
        One result for each chain.
    """
    chains = list(transition.chains())
    workers = _workers(transition, len(chains))
    if workers < 2:
        return [solve(*job) for job in zip(chains, *others, strict=True)]
    return _side_by_side(solve, list(zip(chains, *others, strict=True)), workers)


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
    solve: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], workers: int
) -> list[Result]:
    threads = torch.get_num_threads()
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def solved(job: tuple[Any, ...]) -> Result:
        # Both modes belong to a thread, and are those of the caller here.
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return solve(*job)

    pool = ThreadPoolExecutor(workers, "chain", torch.set_num_threads, (1,))
    try:
        return list(pool.map(solved, jobs))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # also what threads yet to come start with
