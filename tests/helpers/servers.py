"""Real servers that tests start, kill and restart."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


def write_entry_point(folder: Path) -> Path:
    """Write the metadata of a package with the entry point `mlflow.app` of setup.cfg, and return its folder."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    package = folder / "basereward_pages-0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: basereward-pages\nVersion: 0\n")
    (package / "entry_points.txt").write_text(f"[mlflow.app]{setup['options.entry_points']['mlflow.app']}\n")
    return folder


class Server:
    """A real `mlflow server` that can be killed and restarted on the same port and store.

    With `own_pages` it is the one of `make ui`.
    """

    def __init__(self, folder: Path, *, own_pages: bool = False) -> None:
        self.folder = folder
        self.own_pages = own_pages
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and return when it responds."""
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        files = ["--artifacts-destination", str(self.folder / "files")]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        app = ["--app-name", "basereward"] if self.own_pages else []
        # MLflow finds the app by an entry point, which an installation of an earlier version may lack.
        entry_point = write_entry_point(self.folder / "entry_point") if self.own_pages else None
        paths = [str(ROOT), str(entry_point)] if entry_point else []
        python_path = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        log = (self.folder / "server.log").open("ab")
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            [BIN / "mlflow", "server", *app, *store, *files, *address],
            env={**os.environ, **quiet, "PYTHONPATH": python_path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1)
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """Send SIGKILL to the server and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class EarlierServer:
    """Stands before a real MLflow server, and does not know the requests that MLflow 3 has added for models."""

    def __init__(self, server: Server) -> None:
        class Forward(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_PUT = do_PATCH = do_DELETE = do_POST

            def _answer(self, body: bytes | None) -> None:
                if "logged-models" in self.path:
                    status, content, kind = 404, b"<html>Not Found</html>", "text/html"
                else:
                    headers = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
                    request = urllib.request.Request(server.uri + self.path, body, headers, method=self.command)
                    try:
                        with urllib.request.urlopen(request) as response:
                            status, content, kind = response.status, response.read(), response.headers["Content-Type"]
                    except urllib.error.HTTPError as error:
                        status, content, kind = error.code, error.read(), error.headers["Content-Type"]
                self.send_response(status)
                self.send_header("Content-Type", kind or "application/octet-stream")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Write no line for each request."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
