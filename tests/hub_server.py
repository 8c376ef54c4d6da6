"""A small server that speaks as much of the Hub's protocol as the real client needs, with faults on demand.

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
        self.log: list[tuple[str, str]] = []
        self.uploads: dict[str, dict[str, bytes]] = {}  # repository -> path -> content
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
            "X_Linked_Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X_Linked_Size": str(len(content)),
        }
        if self.path.startswith("/cdn/"):
            return self.answer(200, Content_Length=str(len(content)), **facts)
        return self.answer(302, Content_Length="0", Location=f"/cdn{self.path}", **facts)

    def do_GET(self) -> None:
        """The bytes. Faults: "cut" ends a connection half way, "flip" changes a byte, "wait" delays, "500" refuses,
        "storage 500" only where the bytes are."""
        self.hub.log.append(("GET", self.path + (f" {value}" if (value := self.headers.get("Range")) else "")))
        if fault := self.hub.fault("500", "503"):
            return self.answer(int(fault))
        if not self.path.startswith("/cdn/"):
            return self.do_HEAD()
        if fault := self.hub.fault("storage"):
            return self.answer(int(fault.split()[1]))
        if self.hub.fault("wait"):
            time.sleep(3)
        content = self.hub.files[self.key()]
        start, end = 0, len(content)
        if value:
            first, _, last = value.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else end
        if self.hub.fault("flip"):
            content = bytes([content[0] ^ 1]) + content[1:]
        body = content[start:end]
        cut = self.hub.fault("cut")
        self.send_response(206 if value else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if value:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True
        return None

    def key(self) -> tuple[str, ...]:
        """Repository, revision and file of `[/cdn]/owner/name/resolve/revision/file`."""
        parts = self.path.removeprefix("/cdn").lstrip("/").split("/", 4)
        return ("/".join(parts[:2]), *parts[3:])

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
            repository = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.hub.uploads[repository][value["path"]] = base64.b64decode(value["content"])
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
