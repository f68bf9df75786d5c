"""A small server with the requests of the Hugging Face hub by which its library uploads and downloads a model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token_of_the_test"


class HubServer:
    """Keeps repositories in memory. Every file is uploaded as part of its commit.

    Attributes:
        repositories: the files of each commit by their paths, by the name of the repository; the last one is `main`.
        visibility: with which each repository was created.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.visibility: dict[str, str] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.get(self)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                hub.post(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, format: str, *args: object) -> None:
                """Write no line for each request."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def files(self, repository: str) -> dict[str, bytes]:
        """Return the files of `main`."""
        return self.repositories[repository][self.main(repository)]

    def main(self, repository: str) -> str:
        """Return the commit of `main`."""
        return list(self.repositories[repository])[-1]

    def post(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer the requests of an upload, which need the token."""
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            _send(request, 401, {"error": "Invalid credentials"})
            return
        path = urlsplit(request.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            is_new = name not in self.repositories
            self.repositories.setdefault(name, {_commit_id({}): {}})
            self.visibility.setdefault(name, asked.get("visibility", "public"))
            _send(request, 200 if is_new else 409, {"url": f"{self.endpoint}/{name}"})
        elif path == "/api/validate-yaml":
            _send(request, 200, {"warnings": [], "errors": []})
        elif path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in
                     json.loads(body)["files"]]  # fmt: skip
            _send(request, 200, {"files": files})
        else:
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            oid = self._commit(name, [json.loads(line) for line in body.splitlines()])
            _send(request, 200, {"commitUrl": f"{self.endpoint}/{name}/commit/{oid}", "commitOid": oid})

    def _commit(self, name: str, operations: list[dict[str, Any]]) -> str:
        files = dict(self.files(name))
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = _commit_id(files)
        self.repositories[name][oid] = files
        return oid

    def get(self, request: BaseHTTPRequestHandler) -> None:
        """Answer the requests of a download."""
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        commits = self.repositories.get(name)
        if commits is None:
            _send(request, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        revision = parts[5] if parts[0] == "api" else parts[3]
        oid = list(commits)[-1] if revision == "main" else revision
        if oid not in commits:
            _send(request, 404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        elif parts[0] == "api" and parts[4] == "revision":
            siblings = [{"rfilename": path} for path in commits[oid]]
            _send(request, 200, {"id": name, "modelId": name, "sha": oid, "tags": [], "siblings": siblings})
        elif parts[0] == "api":
            tree = [{"type": "file", "path": path, "size": len(content), "oid": _digest(content)} for path, content in
                    commits[oid].items()]  # fmt: skip
            _send(request, 200, tree)
        else:
            content = commits[oid]["/".join(parts[4:])]
            _send(request, 200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": oid})


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _commit_id(files: dict[str, bytes]) -> str:
    return _digest(repr([(path, _digest(content)) for path, content in sorted(files.items())]).encode())


def _send(request: BaseHTTPRequestHandler, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(content)))
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
