"""Download files by URL. Downloads resume, are verified when complete, and fail if the server sends a web page."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from genaug._common.progress import progress
from genaug.assets import file_sharing

TRIES = 4  # failed attempts in a row before the download fails
TIMEOUT = 10.0  # seconds without a byte after which an attempt fails
SLOWEST, WINDOW = 1024, 60.0  # a download that averages fewer bytes a second over WINDOW seconds has stalled
PAUSE = 1.0  # seconds before the second try; doubled for each further try
_AGAIN = (408, 429, 500, 502, 503, 504)
_BLOCK = 1 << 18


class WebPageError(OSError):
    """Error for a web page that came instead of the file."""


def announce(name: str, size: int | None, origin: str, present: int = 0) -> None:
    """Print what is about to be downloaded to standard error.

    Args:
        name: the name to print.
        size: in bytes; None if the server does not state it.
        origin: the server.
        present: number of bytes on disk from an earlier download.
    """
    megabytes = "size not stated" if size is None else f"{size / 1e6:.1f} MB"
    resumed = f", resuming at {present / 1e6:.1f} MB" if present else ""
    print(f"genaug: downloading {name} ({megabytes}) from {origin}{resumed}", file=sys.stderr, flush=True)


def download(url: str, target: Path, name: str) -> str:
    """Download a file to `target`, resuming `target`.part if the server allows it.

    The size is printed before the first byte arrives, then a progress bar.

    Returns:
        The file's SHA-256. It is compared with the server's digest if the server states one.

    Raises:
        WebPageError: the server sends a web page.
        OSError: the server refuses, the connection fails repeatedly, or `target` cannot be written.
    """
    transfer = _Transfer(url, target, name)
    tries, most = TRIES, 0
    while True:
        try:
            headers = transfer.attempt()
            break
        except WebPageError as page:
            if not file_sharing.is_shared(url):
                raise
            further = file_sharing.confirmed(str(page.args[1]), url)
            if further is None or transfer.url != url:
                raise WebPageError(
                    "the file-sharing site offers no download now; its daily quota may be used up"
                ) from None
            transfer.url = further
            continue
        except HTTPError as error:
            error.close()
            if error.code == 416 and transfer.part.is_file():  # the part is longer than the file
                transfer.part.unlink()
            elif error.code not in _AGAIN:
                raise
            failure: Exception = error
            wait = error.headers.get("Retry-After", "")
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            failure, wait = error, ""
        size = transfer.present()
        # Only an attempt that brought many new bytes resets the count, so that a very slow server cannot loop forever.
        tries, most = (TRIES, size) if size > most + SLOWEST * WINDOW else (tries - 1, most)
        if not tries:
            raise failure
        time.sleep(min(float(wait), 30) if wait.isdigit() else PAUSE * 2 ** (TRIES - tries) / 2)
    found = _compare(transfer.part, headers)
    transfer.part.replace(target)
    transfer.notes.unlink(missing_ok=True)
    return found


class _Transfer:
    """A download in one or more attempts: its partial file, and notes that identify the file on the server."""

    def __init__(self, url: str, target: Path, name: str) -> None:
        self.url, self.name = url, name
        self.part, self.notes = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
        self._announced = False

    def present(self) -> int:
        """Return how many bytes are on disk."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def attempt(self) -> Mapping[str, str]:
        """Send one request and append the response to the partial file. Returns the response headers."""
        start, wanted = 0, {"User-Agent": "genaug", "Accept-Encoding": "identity"}
        if self.part.is_file() and (tag := self._tag()):
            start = self.present()
            # If-Range: the server sends the rest if the file is unchanged, otherwise the whole new file.
            wanted |= {"Range": f"bytes={start}-", "If-Range": tag}
        with urlopen(Request(address_of(self.url), headers=wanted), timeout=TIMEOUT) as response:
            headers = {key.lower(): value for key, value in response.headers.items()}
            host = urlsplit(self.url).hostname
            if "text/html" in headers.get("content-type", ""):
                page = response.read(1 << 20).decode(errors="replace")
                raise WebPageError(f"the server {host} sent a web page instead of the file", page)
            if response.status != 206 or not headers.get("content-range", "").startswith(f"bytes {start}-"):
                start = 0
            tag = headers.get("etag", "")
            self.notes.write_text(json.dumps({"etag": "" if tag.startswith("W/") else tag}))
            length = headers.get("content-length")
            total = None if length is None else start + int(length)
            if not self._announced:
                announce(self.name, total, str(host), start)
                self._announced = True
            self._append(response, start, total)
        return headers

    def _append(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        """Write the response to the partial file from byte `start` on; the complete file has `total` bytes."""
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            with progress(total=total, initial=start, description=self.name, unit="B", unit_scale=True) as bar:
                done, since, counted = start, time.monotonic(), start
                while block := response.read1(_BLOCK):
                    file.write(block)
                    done += len(block)
                    bar.update(len(block))
                    if (now := time.monotonic()) - since > WINDOW:
                        if done - counted < SLOWEST * WINDOW:
                            raise TimeoutError(f"less than {SLOWEST * WINDOW:.0f} bytes came in {WINDOW:.0f} seconds")
                        since, counted = now, done
            file.truncate(done)
        if total is not None and done != total:
            raise ConnectionError(f"the connection ended after {done} of {total} bytes")

    def _tag(self) -> str:
        try:
            return str(json.loads(self.notes.read_text())["etag"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def _compare(part: Path, headers: Mapping[str, str]) -> str:
    """Return the SHA-256 of a file after comparing it with the digests that the server states."""
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with part.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            md5.update(block)
    stated = headers.get("x-amz-checksum-sha256")
    if stated is None and (named := re.search(r"sha-256=:?([A-Za-z0-9+/=]+)", headers.get("repr-digest", ""))):
        stated = named[1]
    for digest, other in ((sha.digest(), stated), (md5.digest(), headers.get("content-md5"))):
        if other is not None and base64.b64encode(digest).decode() != other:
            part.unlink()
            raise OSError("the file is not the one that the server states a digest of")
    return sha.hexdigest()


def address_of(url: str) -> str:
    """Return the address to request for a URL. Tests replace this function."""
    return url
