"""Small servers with faults on demand: one that speaks as much of the Hub's protocol as the real client needs, and one
that stands for any other host.

with HubServer() as hub:
    hub.files["owner/name", REVISION, "weights.bin"] = b"..."
    hub.faults.append("cut")      # of the next transfer; see `Handler.do_GET`
    ...                           # HF_ENDPOINT=hub.url
    hub.log                       # [("HEAD", "/owner/name/resolve/..."), ("GET", ...), ...]
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    def __init__(self) -> None:
        self.files: dict[tuple[str, ...], bytes] = {}
        self.faults: list[str] = []  # each is used up by one request that it fits
        self.status = 200  # of every answer about a file, unless 200
        self.authorizations: set[str | None] = set()
        self.storage: set[str | None] = set()  # the same where the bytes are
        self.branches = {"main": REVISION}
        self.states: bytes | None = None  # what the Hub says that the file's digest is of; the file by default
        self.redirects = ""  # the host that has the bytes
        self.log: list[tuple[str, str]] = []
        self.uploads: dict[str, dict[str, bytes]] = {}  # repository -> path -> content
        self.private: dict[str, bool] = {}
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def elsewhere(self) -> str:
        """The same server under another host's name, to which no token may go."""
        return self.url.replace("127.0.0.1", "localhost")

    def fault(self, *kinds: str) -> str | None:
        """The next fault if it is one of these kinds, which uses it up."""
        with self.lock:
            return self.faults.pop(0) if self.faults and self.faults[0].split()[0] in kinds else None


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refusal(self, status: int) -> None:
        codes = {401: "RepoNotFound", 403: "GatedRepo", 404: "EntryNotFound"}
        headers = {"X_Error_Code": codes[status]} if status in codes else {}
        self.answer(status, json.dumps({"error": "refused"}).encode(), **headers)

    def do_HEAD(self) -> None:
        """`resolve` answers with what the file is and where its bytes are, as the Hub does for large files."""
        self.hub.log.append(("HEAD", self.path))
        self.hub.authorizations.add(self.headers.get("Authorization"))
        if fault := self.hub.fault("500", "503"):
            return self.answer(int(fault))
        if self.hub.status != 200:
            return self.refusal(self.hub.status)
        key = self.key()
        if key not in self.hub.files:
            return self.refusal(404)
        content = self.hub.files[key]
        facts = {
            "X_Repo_Commit": key[1],
            "X_Linked_Etag": f'"{hashlib.sha256(self.hub.states or content).hexdigest()}"',
            "X_Linked_Size": str(len(content)),
        }
        if self.path.startswith("/cdn/"):
            return self.answer(200, Content_Length=str(len(content)), **facts)
        return self.answer(302, Content_Length="0", Location=f"{self.hub.redirects}/cdn{self.path}", **facts)

    def do_GET(self) -> None:
        """The bytes. Faults: "wait" delays, "500" refuses, "storage 500" only where the bytes are, "flip" changes a
        byte, and those of `send`."""
        value = self.headers.get("Range")
        self.hub.log.append(("GET", self.path + (f" {value}" if value else "")))
        if fault := self.hub.fault("500", "503"):
            return self.answer(int(fault))
        if self.path.startswith(("/api/models/", "/api/datasets/")):
            return self.listing()
        if not self.path.startswith("/cdn/"):
            return self.do_HEAD()
        self.hub.storage.add(self.headers.get("Authorization"))
        if fault := self.hub.fault("storage"):
            return self.answer(int(fault.split()[1]))
        if self.hub.fault("wait"):
            time.sleep(3)
        return send(self, self.hub.files[self.key()], self.hub.fault("cut", "flip", "drip", "long", "html", "stall"))

    def listing(self) -> None:
        """What a repository has: `/api/models/owner/name[/revision/revision]`, or `datasets` in place of `models`."""
        parts = self.path.partition("?")[0].split("/")
        repository, revision = "/".join(parts[3:5]), parts[6] if len(parts) > 6 else "main"
        revision = self.hub.branches.get(revision, revision)
        names = [key[2] for key in self.hub.files if key[:2] == (repository, revision)]
        if self.hub.status != 200:
            return self.refusal(self.hub.status)
        if not names:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        siblings = [{"rfilename": name} for name in names]
        content = {"id": repository, "modelId": repository, "sha": revision, "siblings": siblings, "tags": []}
        return self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def key(self) -> tuple[str, ...]:
        """Repository, revision and file of `[/cdn]/owner/name/resolve/revision/file`."""
        parts = self.path.removeprefix("/cdn").lstrip("/").split("/", 4)
        revision = self.hub.branches.get(parts[3], parts[3])
        return ("/".join(parts[:2]), revision, *parts[4:])

    def do_POST(self) -> None:
        """Making a repository, and a commit whose files are sent inside it.

        The Hub itself has large files sent to its storage first, by a protocol of its own that is not spoken here.
        """
        self.hub.log.append(("POST", self.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self.chunks()
        if self.headers.get("Authorization") != "Bearer hf_key":
            return self.answer(401, b'{"error": "Invalid user token"}')
        reply: Any
        if self.path == "/api/repos/create":
            content = json.loads(body)
            repository = f"{content['organization']}/{content['name']}"
            self.hub.uploads.setdefault(repository, {})
            private = content.get("visibility", "") == "private" or bool(content.get("private"))
            self.hub.private.setdefault(repository, private)  # one that exists stays as it is
            reply = {"url": f"{self.hub.url}/{repository}", "id": repository, "name": repository}
        elif "/preupload/" in self.path:
            reply = {
                "files": [
                    {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                ]
            }
        elif self.path == "/api/validate-yaml":
            reply = {"errors": [], "warnings": []}
        elif "/commit/" in self.path:
            repository = self.path.partition("/commit/")[0].split("/", 3)[3]
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    self.hub.uploads[repository][value["path"]] = content
                    self.hub.files[repository, REVISION, value["path"]] = content
            reply = {
                "commitOid": REVISION,
                "commitUrl": f"{self.hub.url}/{repository}/commit/{REVISION}",
                "success": True,
            }
        else:
            return self.answer(404)
        return self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


def send(handler: BaseHTTPRequestHandler, content: bytes, fault: str | None, **headers: str) -> None:
    """Answers with a file or the range of it that is asked for, and with a fault.

    "cut N" ends the connection after N bytes, by default half way; "flip" changes the first byte; "drip" sends slowly;
    "long" promises more bytes than come; "html" sends a page; "stall" stops half way without an end.
    """
    kind, _, number = (fault or "").partition(" ")
    if kind == "html":
        page = b"<!DOCTYPE html><html><body>Sorry.</body></html>"
        content, headers = page, {**headers, "Content_Type": "text/html; charset=utf-8"}
    value = handler.headers.get("Range")
    matches = handler.headers.get("If-Range") in (None, headers.get("ETag"))
    start, end = 0, len(content)
    if value and matches and kind != "html":
        first, _, last = value.removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else end
    else:
        value = None
    if start >= end:
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    if kind == "flip":
        content = bytes([content[0] ^ 1]) + content[1:]
    body = content[start:end]
    handler.send_response(206 if value else 200)
    handler.send_header("Content-Length", str(len(body) + 100 * (kind == "long")))
    handler.send_header("Accept-Ranges", "bytes")
    for name, text in headers.items():
        handler.send_header(name.replace("_", "-"), text)
    if value:
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
    handler.end_headers()
    if kind == "drip":
        step = max(len(body) // 20, 1)
        for i in range(0, len(body), step):
            handler.wfile.write(body[i : i + step])
            handler.wfile.flush()
            time.sleep(0.02)
        return
    if kind in ("cut", "stall"):
        body = body[: int(number)] if number else body[: len(body) // 2]
    handler.wfile.write(body)
    if kind == "stall":
        handler.wfile.flush()
        time.sleep(2)
    if kind in ("cut", "stall", "long"):
        handler.close_connection = True


class WebServer(HubServer):
    """Any other host: the file of `https://host/path` is at `/host/path`.

    `files` has them by "host/path". Two hosts behave like their models: `github.com` redirects to its storage, and
    `drive.google.com` asks for a confirmation first.
    """

    def __enter__(self) -> WebServer:
        handler = type("BoundWebHandler", (WebHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self


class WebHandler(Handler):
    def do_GET(self) -> None:
        value = self.headers.get("Range")
        self.hub.log.append(("GET", self.path + (f" {value}" if value else "")))
        path, _, query = self.path.lstrip("/").partition("?")
        if path.startswith("drive.google.com/uc"):
            form = (
                '<html><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
                f'<input type="submit"><input type="hidden" name="id" value="{query.rpartition("id=")[2]}">'
                '<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">'
                '<input type="hidden" name="uuid" value="a-b-c"></form></html>'
            )
            if self.hub.fault("quota"):
                form = "<html><p>Sorry, you can't view or download this file at this time.</p></html>"
            return self.answer(200, form.encode(), Content_Type="text/html; charset=utf-8")
        if path.startswith("github.com/"):
            return self.answer(302, Location=f"{self.hub.elsewhere()}/release-assets/{path}")
        if fault := self.hub.fault("401", "403", "404", "429", "500", "503"):
            return self.answer(int(fault), b"refused", Retry_After="0")
        path = path.removeprefix("release-assets/")
        if path.startswith("drive.usercontent.google.com/"):
            fields = dict(field.split("=") for field in query.split("&"))
            if self.hub.fault("late-quota") or (fields["confirm"], fields["uuid"]) != ("t", "a-b-c"):
                page = b"<html><p>Too many users have viewed or downloaded this file recently.</p></html>"
                return self.answer(200, page, Content_Type="text/html; charset=utf-8")
            path = f"drive.google.com/uc?export=download&id={fields['id']}"
        content = self.hub.files.get((path,))
        if content is None:
            return self.answer(404, b"no such file")
        if self.hub.fault("wait"):
            time.sleep(3)
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Content_Type": "application/octet-stream"}
        if self.hub.fault("digest"):
            headers["x_amz_checksum_sha256"] = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
        fault = self.hub.fault("cut", "flip", "drip", "long", "html", "stall")
        return send(self, content, fault, **headers)
