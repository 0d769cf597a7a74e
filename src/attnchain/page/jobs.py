"""One worker and its queue: what is asked is done one after the other."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple


class Job(NamedTuple):
    """What waits for its turn."""

    given: tuple[Any, ...]
    result: Future[Any]


class Worker:
    """Does one thing at a time, in order of arrival.

    Args:
        make: Runs in the worker's thread, with what was submitted.
        waiting: Most jobs that may wait.
    """

    def __init__(self, make: Callable[..., Any], *, waiting: int = 4) -> None:
        self._make = make
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, *given: Any) -> Future[Any]:
        """Queues a job.

        Raises:
            queue.Full: Too many are waiting.
        """
        job = Job(given, Future())
        self._jobs.put_nowait(job)
        return job.result

    @property
    def busy(self) -> bool:
        """Whether its thread still works."""
        return self._thread.is_alive()

    def stop(self, *, patience: float) -> None:
        """Drops what waits and ends the thread, or leaves it after some seconds."""
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.result.cancel()
        self._jobs.put(None)
        self._thread.join(patience)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.result.set_running_or_notify_cancel():
                continue
            try:
                job.result.set_result(self._make(*job.given))
            except Exception as error:  # noqa: BLE001  (handed to the one who waits)
                job.result.set_exception(error)
