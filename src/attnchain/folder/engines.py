"""Where a job runs: in this process, in several, or on the machines of Ray."""

import os
import signal
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import torch

from attnchain.checks import check_count
from attnchain.errors import ArgumentError
from attnchain.folder.cluster import ray_cluster
from attnchain.folder.job import Item, Job, Outcome, weights_of
from attnchain.models import LoadedModel, load, of_kind

LOST = "the process that read it was lost (killed, or out of memory)"
RETRIES = 1
"""How often a picture is tried again whose process was lost."""
PATIENCE = 120
"""Seconds without an answer from Ray after which a person is told."""


def run(
    job: Job,
    items: Sequence[Item],
    *,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
) -> Iterator[Outcome]:
    """Answers every picture, in the order they get ready.

    Pictures whose results are there already, whole and from the same question, are
    not asked again: a job that was killed goes on where it was.

    Args:
        job: What is done.
        items: The pictures, from `plan`.
        workers: Pictures read at once; each worker has the model loaded.
        engine: "local", or "ray".
        address: Of a running Ray cluster; by default one is started here.

    Returns:
        The outcomes, one after the other; the files of one that is done are whole.

    Raises:
        ArgumentError: An engine or a number of workers that cannot be.
        ModelNotFoundError: There is no such model.
        MissingExtraError: Ray is not installed.
    """
    check_count(workers, "workers", low=1, high=1024, meaning="processes")
    if engine not in ENGINES:
        message = f"engine must be one of {', '.join(ENGINES)}, but is {engine!r}"
        raise ArgumentError(message)
    if address is not None and engine != "ray":
        raise ArgumentError("an address goes with the engine ray")
    return _outcomes(job, items, partial(ENGINES[engine], job, workers, address))


def _outcomes(
    job: Job, items: Sequence[Item], rest: Callable[[list[Item]], Iterator[Outcome]]
) -> Iterator[Outcome]:
    """Those of an earlier run, then the rest."""
    left: list[Item] = []
    for item in items:
        earlier = job.kept(item, lambda: weights_of(_loaded(job.model)))
        if earlier is None:
            left.append(item)
        else:
            yield earlier
    if left:
        yield from rest(left)


def _local(
    job: Job, workers: int, _address: str | None, items: Sequence[Item]
) -> Iterator[Outcome]:
    if workers > 1:
        yield from _processes(job, items, workers)
        return
    for item in items:
        yield _answered(job, item)


def _processes(job: Job, items: Sequence[Item], workers: int) -> Iterator[Outcome]:
    """Several processes; what a lost one was reading is tried once more, alone."""
    waiting = list(reversed(items))
    while waiting:
        running: dict[Future[Outcome], Item] = {}
        threads = _threads(workers)
        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin, initargs=(threads,)
        )
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    item = waiting.pop()
                    running[pool.submit(_answered, job, item)] = item
                for ready in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = ready.result()
                    del running[ready]
                    yield outcome
        except BrokenProcessPool:
            suspects = list(running.values())
            if workers == 1:
                yield from (Outcome(item, "failed", LOST) for item in suspects)
            else:
                yield from _processes(job, suspects, 1)
        finally:
            pool.shutdown(cancel_futures=True)


def _ray(
    job: Job, workers: int, address: str | None, items: Sequence[Item]
) -> Iterator[Outcome]:
    """One actor for each worker; Ray starts a lost one again, with its picture."""
    with ray_cluster(address, processors=workers) as ray:
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(Actor)
        # An actor on another machine has that machine's processors, not ours.
        threads = _threads(workers) if address is None else None
        actors = [actor.remote(job, threads) for _ in range(min(workers, len(items)))]
        waiting = list(reversed(items))
        running: dict[Any, tuple[Any, Item | None]]
        running = {worker.begin.remote(): (worker, None) for worker in actors}
        del actors
        while waiting or any(item for _, item in running.values()):
            ready = _ready(ray, running)
            worker, item = running.pop(ready)
            if item is not None:
                yield _fetched(ray, ready, item)
            if waiting:
                item = waiting.pop()
                running[worker.answer.remote(item)] = worker, item
            del worker  # who has nothing left to do makes room for one without a place


def _ready(ray: Any, running: Collection[Any]) -> Any:
    """The next thing that is done; says so where that takes suspiciously long."""
    found, _ = ray.wait(list(running), timeout=PATIENCE)
    if not found:
        have = ray.cluster_resources().get("CPU", 0)
        message = (
            f"nothing was done on the Ray cluster for {PATIENCE} s; it has {have:.0f} "
            "processors, which other jobs may hold"
        )
        warnings.warn(message, stacklevel=2)
        found, _ = ray.wait(list(running))
    return found[0]


def _fetched(ray: Any, ready: Any, item: Item) -> Outcome:
    """The outcome of a picture that Ray is done with."""
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError:
        return Outcome(item, "failed", LOST)


class Actor:
    """A worker of Ray: it loads the model once."""

    def __init__(self, job: Job, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._job = job

    def begin(self) -> None:
        """Tells by its end that the actor has found a place."""

    def answer(self, item: Item) -> Outcome:
        """The outcome of one picture."""
        return _answered(self._job, item)


def _threads(workers: int) -> int:
    """Of each worker, so that together they use the processors once."""
    return max(1, (os.cpu_count() or 1) // workers)


def _begin(threads: int) -> None:
    """Ctrl-C is the parent's to hear: it lets the pictures under way be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its processes, which would wait forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answered(job: Job, item: Item) -> Outcome:
    return job.answer(item, _loaded(job.model))


@cache
def _loaded(name: str) -> LoadedModel:
    return of_kind(load(name), LoadedModel)


Engine = Callable[[Job, int, str | None, Sequence[Item]], Iterator[Outcome]]
ENGINES: dict[str, Engine] = {"local": _local, "ray": _ray}
"""Where a job can run, by name."""
