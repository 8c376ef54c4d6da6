"""Files by URL: resumed, never trusted before they are whole, and refused where a web page comes instead."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import sys
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import Request, urlopen

from genaug._common.progress import progress

TRIES = 4  # in a row without a new byte
TIMEOUT = 10.0  # seconds without a byte
SLOWEST, WINDOW = 1024, 60.0  # bytes a second, over so many seconds: slower is a stall
PAUSE = 1.0  # seconds before the second try; doubled for each further one
_AGAIN = (408, 429, 500, 502, 503, 504)
_BLOCK = 1 << 18
_DRIVE = "https://drive.google.com/uc?"


class WebPageError(OSError):
    """A web page came in place of the file."""


def announce(name: str, size: int | None, origin: str) -> None:
    """Says on standard error what is about to be downloaded."""
    megabytes = "" if size is None else f" ({size / 1e6:.1f} MB)"
    print(f"genaug: downloading {name}{megabytes} from {origin}", file=sys.stderr, flush=True)


def download(url: str, target: Path, name: str) -> str:
    """Downloads a file to `target`, resuming `target`.part where the server allows it.

    Returns:
        The file's SHA-256, which was compared with what the server states, if it states one.

    Raises:
        WebPageError: the server sends a web page.
        OSError: the server refuses, the connection fails again and again, or `target` cannot be written.
    """
    address, tries, most = url, TRIES, 0
    part, notes = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    while True:
        try:
            headers = _once(address, part, notes, name)
            break
        except WebPageError as page:
            if not url.startswith(_DRIVE) or address != url:
                raise
            address = _confirmed(str(page.args[1]), url)  # large files want a confirmation
            continue
        except HTTPError as error:
            error.close()
            if error.code == 416 and part.is_file():  # the part is longer than the file
                part.unlink()
            elif error.code not in _AGAIN:
                raise
            failure: Exception = error
            wait = error.headers.get("Retry-After", "")
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            failure, wait = error, ""
        size = part.stat().st_size if part.is_file() else 0
        # a server that only drips is not asked without end
        tries, most = (TRIES, size) if size > most + SLOWEST * WINDOW else (tries - 1, most)
        if not tries:
            raise failure
        time.sleep(min(float(wait), 30) if wait.isdigit() else PAUSE * 2 ** (TRIES - tries) / 2)
    found = _compare(part, headers)
    part.replace(target)
    notes.unlink(missing_ok=True)
    return found


def _once(url: str, part: Path, notes: Path, name: str) -> Mapping[str, str]:
    """One request: the file, or what is missing of it, is appended to `part`. Returns the answer's headers."""
    start, wanted = 0, {"User-Agent": "genaug", "Accept-Encoding": "identity"}
    if part.is_file() and (tag := _tag(notes)):
        start = part.stat().st_size
        # the rest of the same file, or all of another
        wanted |= {"Range": f"bytes={start}-", "If-Range": tag}
    with urlopen(Request(address_of(url), headers=wanted), timeout=TIMEOUT) as response:
        headers = dict(response.headers.items())
        lower = {key.lower(): value for key, value in headers.items()}
        if "text/html" in lower.get("content-type", ""):
            page = response.read(1 << 20).decode(errors="replace")
            raise WebPageError(f"the server {urlsplit(url).hostname} sent a web page instead of the file", page)
        if response.status != 206 or not lower.get("content-range", "").startswith(f"bytes {start}-"):
            start = 0
        tag = lower.get("etag", "")
        notes.write_text(json.dumps({"etag": "" if tag.startswith("W/") else tag}))
        length = lower.get("content-length")
        total = None if length is None else start + int(length)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            with progress(total=total, initial=start, description=name, unit="B", unit_scale=True) as bar:
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
    return lower


def _tag(notes: Path) -> str:
    try:
        return str(json.loads(notes.read_text())["etag"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _compare(part: Path, headers: Mapping[str, str]) -> str:
    """The SHA-256 of a file, compared with the digests that the server states."""
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


class _Form(HTMLParser):
    """The first form of a page: where it goes, and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = given.get("action")
        elif tag == "input" and given.get("type") == "hidden" and given.get("name"):
            self.fields[given["name"]] = given.get("value") or ""


def _confirmed(page: str, url: str) -> str:
    """The URL behind the page on which the file-sharing site asks whether to download without a virus scan."""
    form = _Form()
    form.feed(page)
    if form.action is None or "id" not in form.fields:
        raise WebPageError("the file-sharing site offers no download now; its daily quota may be used up")
    return f"{urljoin(url, form.action)}?{urlencode(form.fields)}"


def address_of(url: str) -> str:
    """The address that is asked for a URL; tests put their own server here."""
    return url
