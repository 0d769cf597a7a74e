"""A model hub of a few folders on this computer, for the hub's own client."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _digest(content):
    """The identity that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what `snapshot_download` asks: the commit, its files, one file."""

    def do_GET(self):
        for name, folder in self.server.folders.items():
            if self.path == f"/api/models/{name}/revision/main":
                return self._json({"id": name, "sha": COMMIT, "siblings": []})
            if self.path.startswith(f"/api/models/{name}/tree/{COMMIT}"):
                return self._json([self._entry(file) for file in folder.iterdir()])
            file = folder / self.path.rpartition("/")[2]
            if self.path == f"/{name}/resolve/{COMMIT}/{file.name}" and file.is_file():
                return self._send(file.read_bytes())
        return self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _entry(self, file):
        content = file.read_bytes()
        size, oid = len(content), _digest(content)
        return {"type": "file", "path": file.name, "size": size, "oid": oid}

    def _json(self, value):
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, content, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_digest(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        self.server.asked.append(self.path)


@contextmanager
def hub(folders):
    """Serve folders by repository name; yields the server, whose `asked` are paths."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folders, server.asked = folders, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def closed_port():
    """A port of this computer that refuses every connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def fresh(code, *args, port, home, **environment):
    """Run code in a process of its own, for which the hub is at a port."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=clean
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(home),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
