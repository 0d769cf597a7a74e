"""The server: only this computer, only its own page, only pictures, one at a time."""

import hashlib
import http.client
import io
import json
import threading
from contextlib import contextmanager

import pytest

from attnchain.errors import ImageError, OutputError
from attnchain.page.jobs import Worker
from attnchain.page.serving import KEPT_PAGES, Kept, page_server


@pytest.fixture(scope="module")
def server(tiny):
    with running(tiny) as started:
        yield started


@contextmanager
def running(model, **options):
    with page_server(model, **options) as started:
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        try:
            yield started
        finally:
            started.shutdown()
            thread.join()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def said(content):
    return json.loads(content)["error"]


def test_a_dropped_picture_becomes_a_page(server, picture):
    named = {"X-Picture-Name": "my%20%3Cpicture%3E.png"}
    status, content, _ = ask(server, "POST", "/pictures", png(picture), **named)
    assert status == 201
    status, page, headers = ask(server, "GET", json.loads(content)["page"])
    assert status == 200
    assert "<h1>my &lt;picture&gt;.png</h1>" in page.decode()
    digest = hashlib.sha256(png(picture)).hexdigest()
    assert f'"input_sha256":"{digest}"' in page.decode()
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert list(server.folder.iterdir()) == []


def test_only_the_newest_pages_are_kept(server, picture):
    kept = [Kept(None, str(i).encode()) for i in range(KEPT_PAGES + 1)]
    words = [server.keep(each) for each in kept]
    assert ask(server, "GET", f"/pages/{words[0]}")[0] == 404
    assert ask(server, "GET", f"/pages/{words[-1]}")[1] == str(KEPT_PAGES).encode()


def test_what_is_no_picture_is_refused_by_its_own_name(server):
    named = {"X-Picture-Name": "letter.txt"}
    status, content, _ = ask(server, "POST", "/pictures", b"hello", **named)
    assert status == 422
    assert "not a picture" in said(content)
    assert "letter.txt" in said(content)
    assert str(server.folder) not in said(content)
    assert list(server.folder.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/pages/", "/pages/../../etc/passwd", "/x", "//x"]
)
def test_no_path_leads_to_a_file(server, path):
    status, content, _ = ask(server, "GET", path)
    assert status == 404
    assert "no such page" in said(content)


def test_pictures_go_to_one_place(server):
    assert ask(server, "POST", "/elsewhere", b"x")[0] == 404


def test_other_sites_and_names_are_refused(server, picture):
    body = png(picture)
    evil = {"Origin": "http://elsewhere.example"}
    assert ask(server, "POST", "/pictures", body, **evil)[0] == 403
    borrowed = {"Host": f"elsewhere.example:{server.server_port}"}
    assert ask(server, "GET", "/", **borrowed)[0] == 403
    own = {"Origin": f"http://localhost:{server.server_port}"}
    assert ask(server, "POST", "/pictures", body, **own)[0] == 201


def test_a_picture_needs_a_length(server):
    assert ask(server, "POST", "/pictures", b"")[0] == 411
    assert ask(server, "POST", "/pictures", **{"Content-Length": "-4"})[0] == 411


def test_a_picture_that_is_too_large_is_refused_unread(tiny):
    with running(tiny, max_upload=10) as server:
        status, content, _ = ask(
            server, "POST", "/pictures", **{"Content-Length": "11000000"}
        )
    assert status == 413
    assert "11.0 MB" in said(content)


def test_a_picture_cut_short_is_refused(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.putrequest("POST", "/pictures")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"only this")
    connection.sock.shutdown(1)
    answer = connection.getresponse()
    assert answer.status == 400
    assert "cut short" in said(answer.read())
    connection.close()


def test_the_server_listens_on_loopback_only_and_says_when_it_cannot(server, tiny):
    assert server.server_address[0] == "127.0.0.1"
    taken = f"cannot listen on port {server.server_port}"
    with (
        pytest.raises(OutputError, match=taken),
        page_server(tiny, port=server.server_port),
    ):
        pass


def test_closing_ends_the_worker_and_removes_the_folder(tiny):
    with running(tiny) as server:
        folder, worker = server.folder, server.worker
        assert folder.is_dir()
    assert not folder.exists()
    worker._thread.join()  # it was told to end; closing waits for it a moment only


def test_pictures_wait_in_line_and_not_too_many(tmp_path):
    started, release = threading.Event(), threading.Event()
    running_now, most = [], []

    def slow(_, title):
        running_now.append(title)
        most.append(len(running_now))
        started.set()
        release.wait()
        running_now.remove(title)
        if title == "bad":
            raise ImageError("bad")
        return title

    worker = Worker(slow, waiting=2)
    first = worker.submit(tmp_path, "first")
    started.wait()
    waiting = [worker.submit(tmp_path, title) for title in ("bad", "last")]
    import queue

    with pytest.raises(queue.Full):
        worker.submit(tmp_path, "too many")
    release.set()
    assert first.result() == "first"
    with pytest.raises(ImageError):
        waiting[0].result()
    assert waiting[1].result() == "last"
    assert max(most) == 1
    worker.stop(patience=threading.TIMEOUT_MAX)


class Held:
    """A page that is made once it is released."""

    def __init__(self):
        self.started, self.release = threading.Event(), threading.Event()

    def __call__(self, _, title):
        self.started.set()
        self.release.wait()
        return title


def test_stopping_drops_what_waits(tmp_path):
    page = Held()
    worker = Worker(page)
    first = worker.submit(tmp_path, "first")
    page.started.wait()
    waiting = worker.submit(tmp_path, "waiting")
    worker.stop(patience=0)
    assert waiting.cancelled()
    page.release.set()
    assert first.result() == "first"


def test_a_full_queue_is_said(tiny, picture):
    with running(tiny) as server:
        page = Held()
        server.worker.stop(patience=threading.TIMEOUT_MAX)
        server.worker = Worker(page, waiting=1)
        server.worker.submit(server.folder, "busy")
        page.started.wait()
        server.worker.submit(server.folder, "waiting")
        status, content, _ = ask(server, "POST", "/pictures", png(picture))
        page.release.set()
    assert status == 503
    assert "too many pictures" in said(content)


def test_the_start_page_takes_a_picture_in_a_browser(
    server, picture, open_page, settle
):
    seen = open_page(server.url, ready=False)
    page = seen.page
    page.locator("#file").set_input_files(
        {"name": "letter.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_text("not a picture").wait_for()
    page.locator("#file").set_input_files(
        {"name": "halves.png", "mimeType": "image/png", "buffer": png(picture)}
    )
    page.wait_for_url("**/pages/*")
    settle(page)
    assert page.locator("h1").inner_text() == "halves.png"
    own = (server.url, "blob:", "data:")
    assert all(url.startswith(own) for url in seen.requests)
    # The browser itself notes the refused file; nothing else is said.
    assert all("422" in text for text in seen.said)


def drop(page, picture, name):
    page.evaluate(
        """([bytes, name]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name));
          window.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
        }""",
        [list(png(picture)), name],
    )


def test_pictures_can_be_dropped_one_after_the_other(
    server, picture, open_page, settle
):
    page = open_page(server.url, ready=False, numbers=True).page
    for name in ("first.png", "second.png"):
        drop(page, picture, name)
        page.locator("h1", has_text=name).wait_for()
        settle(page)
        assert page.url.startswith(f"{server.url}pages/")


def test_a_served_page_takes_the_next_picture(server, picture, open_page, settle):
    named = {"X-Picture-Name": "first.png"}
    _, content, _ = ask(server, "POST", "/pictures", png(picture), **named)
    address = server.url + json.loads(content)["page"].removeprefix("/")
    seen = open_page(address)
    seen.page.get_by_label("Drop another picture").set_input_files(
        {"name": "second.png", "mimeType": "image/png", "buffer": png(picture)}
    )
    seen.page.locator("h1", has_text="second.png").wait_for()
    settle(seen.page)
    assert seen.said == []


# Whatever happens, a request is answered


def test_a_folder_that_was_cleaned_away_is_made_again(tiny, picture):
    with running(tiny) as server:
        server.folder.rmdir()
        assert ask(server, "POST", "/pictures", png(picture))[0] == 201


def test_a_folder_that_cannot_be_used_is_said(tiny, picture):
    with running(tiny) as server:
        server.folder.rmdir()
        server.folder.write_text("no folder")
        status, content, _ = ask(server, "POST", "/pictures", png(picture))
        server.folder.unlink()
    assert status == 507
    assert "cannot be kept" in said(content)


@pytest.mark.parametrize("length", ["9" * 16, "9" * 5000, "1" + "0" * 30])
def test_an_absurd_length_is_answered(server, length):
    headers = {"Content-Length": length}
    assert ask(server, "POST", "/pictures", **headers)[0] == 413


@pytest.mark.parametrize("length", ["0" * 5000, "+5", "5.0", "\u0665", ""])
def test_a_length_that_is_none_is_answered(server, length):
    headers = {"Content-Length": length.encode()}
    assert ask(server, "POST", "/pictures", **headers)[0] == 411


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 507, "memory ran out"),
        (RuntimeError("can't allocate memory: 9 bytes"), 507, "memory ran out"),
        (ZeroDivisionError("by\nzero"), 500, "ZeroDivisionError: by; this is a fault"),
        (ImageError("no such thing"), 422, "no such thing"),
    ],
    ids=["memory", "torch", "fault", "picture"],
)
def test_every_failure_is_answered(  # noqa: PLR0917
    tiny, picture, monkeypatch, error, status, words
):
    def fail(*_args, **_named):
        raise error

    monkeypatch.setattr("attnchain.page.serving.collect", fail)
    with running(tiny) as server:
        found, content, _ = ask(server, "POST", "/pictures", png(picture))
        assert list(server.folder.iterdir()) == []
    assert (found, "\n" in said(content)) == (status, False)
    assert words in said(content)


def test_a_small_file_of_many_pixels_is_refused(server):
    from PIL import Image

    many = png(Image.new("1", (10_000, 5_001)))
    assert len(many) < 100_000
    status, content, _ = ask(server, "POST", "/pictures", many)
    assert status == 422
    assert "10000 x 5001 pixels, at most 50,000,000" in said(content)


def test_on_port_80_browsers_leave_the_port_out(server, monkeypatch):
    assert ask(server, "GET", "/", Host="127.0.0.1")[0] == 403
    real = server.server_port
    monkeypatch.setattr(server, "server_port", 80)
    for host, status in (("127.0.0.1", 200), ("localhost", 200), ("elsewhere", 403)):
        connection = http.client.HTTPConnection("127.0.0.1", real)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()
