"""Ray, started in one way, and left whatever happens."""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attnchain.errors import ArgumentError
from attnchain.optional import require

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS = 10
"""In which a cluster must answer."""


@contextmanager
def ray_cluster(address: str | None, *, processors: int | None = None) -> Iterator[Any]:
    """Connects to a Ray cluster, or starts one on this machine; leaves it at the end.

    A connection that this process has already is used, and kept.

    Args:
        address: Of a running cluster; None starts one.
        processors: Of the one that is started; by default those of the machine.

    Yields:
        The module `ray`.

    Raises:
        ArgumentError: No cluster answers there, or none can be started here.
        MissingExtraError: Ray is not installed.
    """
    ray = require("ray", extra="ray", feature="the engine ray")
    if address is None and ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": processors, "include_dashboard": False}
    else:
        _check_reached(address)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        ray.init(address=address or "local", **options)
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise ArgumentError(_no_cluster(address, error)) from error
    finally:
        # Ray takes the signals, and would end the command with its own stack.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reached(address: str) -> None:
    """Ray itself would try for minutes before it says that nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ArgumentError(_no_cluster(address, error)) from error


def _no_cluster(address: str | None, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if address is None:
        return f"Ray cannot be started on this machine ({reason})"
    return (
        f"no Ray cluster answers at {address} ({reason}): start one with `ray start "
        "--head`, or leave the address out"
    )
