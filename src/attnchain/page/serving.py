"""The page for pictures dropped on it: a small server on this computer only."""

import html
import json
import queue
import secrets
import socket
import sys
import tempfile
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any

from attnchain.errors import ChainError, OutputError, memory_ran_out
from attnchain.models import LoadedModel, origin, read_picture
from attnchain.page.collecting import collect
from attnchain.page.cutting import Cutting
from attnchain.page.jobs import Worker
from attnchain.page.writing import asset, head_element, page_html, script_elements

ADDRESS = "127.0.0.1"
MAX_UPLOAD = 50_000_000
MAX_PIXELS = 50_000_000
"""A small file may hold many pixels, and each takes memory."""
KEPT_PAGES = 3
HTTP_PORT = 80
_MOST_DIGITS = 15
_MOST_MARKS = 100_000
"""Bytes of a list of marks."""
_GONE = "no such page: only the last few are kept, drop the picture again"
SILENCE = 30.0
"""Seconds an upload may pause before the connection is closed."""


def claim_port(port: int) -> socket.socket:
    """A port of this computer, held before anything that takes time is begun.

    Args:
        port: Its number; 0 takes a free one.

    Raises:
        OutputError: The port cannot be used.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((ADDRESS, port))
        held.listen()
    except (OSError, OverflowError) as error:
        held.close()
        message = f"cannot listen on port {port} ({error}); choose another"
        raise OutputError(message) from error
    return held


@dataclass(frozen=True, eq=False)
class Kept:
    """A picture in the server's memory.

    Attributes:
        cutting: Where its object is marked.
        page: Of its chains, where they were asked for.
    """

    cutting: Cutting
    page: bytes | None = None


@contextmanager
def page_server(
    model: LoadedModel,
    *,
    port: int | socket.socket = 0,
    max_upload: int = MAX_UPLOAD,
) -> Iterator["PageServer"]:
    """A server on 127.0.0.1 for pictures dropped on its page: objects and chains.

    Pictures are checked as by `attnchain.models.read_picture`. They are kept in a
    temporary folder while they are worked on; the last three pages stay in memory.
    Requests name no file: a page is found by a random word. Requests from other
    sites are refused.

    Args:
        model: What `attnchain.models.load` returns.
        port: Port to listen on; 0 takes a free one. Or what `claim_port` returned.
        max_upload: Largest picture file, in bytes.

    Yields:
        The server; call `serve_forever()`. On exit it is closed and its files are
        gone.

    Raises:
        OutputError: The port cannot be used.
    """
    with tempfile.TemporaryDirectory(
        prefix="attnchain-", ignore_cleanup_errors=True
    ) as folder:
        held = claim_port(port) if isinstance(port, int) else port
        server = PageServer(held, model, Path(folder), max_upload)
        try:
            yield server
        finally:
            server.server_close()
            for worker in (server.worker, server.marker):
                worker.stop(patience=2)


def start_page(model: str, note: str, max_upload: int) -> str:
    """Return the page that takes pictures.

    Args:
        model: Name of the model.
        note: What its weights are.
        max_upload: Largest picture file, in bytes.
    """
    return Template(asset("drop.html")).substitute(
        head=head_element("attnchain", ["drop"], served=True),
        model=html.escape(model),
        note=html.escape(note),
        limit=f"{max_upload / 1e6:g} MB",
        scripts=script_elements(["drop"]),
    )


class PageServer(ThreadingHTTPServer):
    """Holds the queue and the newest pages; see `page_server`."""

    daemon_threads = True

    def __init__(
        self, held: socket.socket, model: LoadedModel, folder: Path, max_upload: int
    ) -> None:
        super().__init__(held.getsockname(), PageHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = held
        self.server_name, self.server_port = held.getsockname()
        self.model = model
        self.worker = Worker(self.make_page)
        self.marker = Worker(_done)
        self.folder = folder
        self.start = start_page(model.name, model.note, max_upload).encode()
        self.max_upload = max_upload
        self.pages: OrderedDict[str, Kept] = OrderedDict()

    def make_object(self, picture: Path, title: str) -> Kept:
        """A picture whose object can be marked."""
        shown = read_picture(picture, max_pixels=MAX_PIXELS)
        return Kept(Cutting(title, shown, self.model))

    def make_page(self, picture: Path, title: str) -> Kept:
        """The same, with the page of its chains."""
        kept = self.make_object(picture, title)
        data = collect(self.model, kept.cutting.picture, title=title)
        whence = origin(self.model.model, picture.read_bytes())
        told = page_html(replace(data, origin=whence), served=True)
        return Kept(kept.cutting, told.encode())

    @property
    def busy(self) -> bool:
        """Whether a thread is in the middle of its work."""
        return self.worker.busy or self.marker.busy

    @property
    def url(self) -> str:
        """Address of the start page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any
    ) -> None:
        """Report faults of ours, not browsers that left."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def keep(self, kept: Kept) -> str:
        """Keeps a picture under a new random word; drops the oldest beyond three."""
        word = secrets.token_urlsafe(16)
        self.pages[word] = kept
        while len(self.pages) > KEPT_PAGES:
            self.pages.popitem(last=False)
        return word


def _done(task: Callable[[], Any]) -> Any:
    return task()


class PageHandler(BaseHTTPRequestHandler):
    """One request: a page, a picture to work on, or marks in one."""

    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SILENCE
    server_version = "attnchain"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the start page, or a page by its word."""
        if not self._from_here():
            self._refuse(HTTPStatus.FORBIDDEN, "ask for this page by its own address")
        elif (page := self._page()) is None:
            self._refuse(HTTPStatus.NOT_FOUND, _GONE)
        else:
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page)

    def do_POST(self) -> None:
        """Take a picture, or answer marks in one."""
        if not self._from_here():
            self._refuse(HTTPStatus.FORBIDDEN, "pictures are taken from this page only")
        elif self.path in {"/pictures", "/objects"}:
            if (content := self._content(self.server.max_upload)) is not None:
                self._take(content)
        elif (kept := self._kept("/objects/")) is not None:
            if (content := self._content(_MOST_MARKS)) is not None:
                self._mark(lambda: kept.cutting.mask(content))
        elif (kept := self._kept("/cutouts/")) is not None:
            if (content := self._content(_MOST_MARKS)) is not None:
                self._mark(lambda: kept.cutting.cutout(content))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"nothing is taken here; {_GONE}")

    def _page(self) -> bytes | None:
        """The page of this path."""
        if self.path == "/":
            return self.server.start
        if (kept := self._kept("/objects/")) is not None:
            return kept.cutting.html.encode()
        kept = self._kept("/pages/")
        return kept and kept.page

    def _kept(self, place: str) -> Kept | None:
        """The picture whose word follows a place."""
        if not self.path.startswith(place):
            return None
        return self.server.pages.get(self.path.removeprefix(place))

    def _take(self, content: bytes) -> None:
        title = urllib.parse.unquote(self.headers.get("X-Picture-Name", ""))[:120]
        title = title or "picture"
        server, picture = self.server, self.server.folder / secrets.token_hex(16)

        def made() -> Kept:
            try:
                server.folder.mkdir(exist_ok=True)  # others clean temporary folders
                picture.write_bytes(content)
                if self.path == "/pictures":
                    return server.worker.submit(picture, title).result()
                task = partial(server.make_object, picture, title)
                return server.marker.submit(task).result()
            finally:
                with suppress(OSError):
                    picture.unlink(missing_ok=True)

        kept = self._result(made, {str(picture): title})
        if kept is not None:
            place = "objects" if kept.page is None else "pages"
            word = server.keep(kept)
            self._json(HTTPStatus.CREATED, {"page": f"/{place}/{word}"})

    def _mark(self, task: Callable[[], dict[str, Any]]) -> None:
        found = self._result(lambda: self.server.marker.submit(task).result(), {})
        if found is not None:
            self._json(HTTPStatus.OK, found)

    def _result(self, work: Callable[[], Any], hidden: dict[str, str]) -> Any | None:
        """What a worker made; None after saying why there is nothing."""
        status = HTTPStatus.SERVICE_UNAVAILABLE
        try:
            return work()
        except queue.Full:
            refusal = "too many pictures are waiting; try again in a minute"
        except CancelledError:
            refusal = "the server is stopping"
        except ChainError as error:
            status, refusal = HTTPStatus.UNPROCESSABLE_ENTITY, str(error)
            for name, shown in hidden.items():
                refusal = refusal.replace(name, shown)
        except Exception as error:  # noqa: BLE001  (every request is answered)
            status, refusal = _unforeseen(error)
        self._refuse(status, refusal)
        return None

    def _from_here(self) -> bool:
        """Whether host and origin are ours: no other site, no borrowed name."""
        port = self.server.server_port
        hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
        if port == HTTP_PORT:
            hosts |= {ADDRESS, "localhost"}  # browsers leave it out
        origin = self.headers.get("Origin")
        own = origin is None or origin in {f"http://{host}" for host in hosts}
        return own and self.headers.get("Host") in hosts

    def _content(self, most: int) -> bytes | None:
        """What was sent, or None after refusing it."""
        length = self._length(most)
        if length is None:
            return None
        content = self.rfile.read(length)
        if len(content) < length:
            self._refuse(HTTPStatus.BAD_REQUEST, "the picture was cut short")
            return None
        return content

    def _length(self, most: int) -> int | None:
        """Size of what is sent, or None after refusing it."""
        given = self.headers.get("Content-Length", "")
        if not given.isascii() or not given.isdigit() or not given.strip("0"):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "send one picture with its length")
            return None
        length = int(given[:_MOST_DIGITS])
        if length > most or len(given) > _MOST_DIGITS:
            message = (
                f"the picture has {length / 1e6:.1f} MB, at most "
                f"{most / 1e6:g} MB are taken; make it smaller"
            )
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
            return None
        return length

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True
        self._json(status, {"error": message})

    def _json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(value).encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the browser shows what went wrong."""


def _unforeseen(error: Exception) -> tuple[HTTPStatus, str]:
    """The answer where something else failed than the picture."""
    if memory_ran_out(error):
        message = "memory ran out; drop a smaller picture"
        return HTTPStatus.INSUFFICIENT_STORAGE, message
    reason = (str(error).splitlines() or [""])[0]
    if isinstance(error, OSError):
        message = f"the picture cannot be kept while it is worked on: {reason}"
        return HTTPStatus.INSUFFICIENT_STORAGE, message
    message = f"{type(error).__name__}: {reason}; this is a fault of attnchain"
    return HTTPStatus.INTERNAL_SERVER_ERROR, message
