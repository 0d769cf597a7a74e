"""One worker and its queue: pictures become pages one after the other."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

MakePage = Callable[[Path, str], str]
"""From a picture file and its title to the text of a page."""


class Job(NamedTuple):
    """A picture waiting for its page."""

    picture: Path
    title: str
    page: Future[str]


class Worker:
    """Makes one page at a time, in order of arrival.

    Args:
        make_page: Runs in the worker's thread.
        waiting: Most pictures that may wait.
    """

    def __init__(self, make_page: MakePage, *, waiting: int = 4) -> None:
        self._make_page = make_page
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, picture: Path, title: str) -> Future[str]:
        """Queues a picture.

        Raises:
            queue.Full: Too many are waiting.
        """
        job = Job(picture, title, Future())
        self._jobs.put_nowait(job)
        return job.page

    @property
    def busy(self) -> bool:
        """Whether its thread still works on a page."""
        return self._thread.is_alive()

    def stop(self, *, patience: float) -> None:
        """Drops what waits and ends the thread, or leaves it after some seconds."""
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.page.cancel()
        self._jobs.put(None)
        self._thread.join(patience)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.page.set_running_or_notify_cancel():
                continue
            try:
                job.page.set_result(self._make_page(job.picture, job.title))
            except Exception as error:  # noqa: BLE001  (handed to the one who waits)
                job.page.set_exception(error)
