"""What the server answers to requests that the page makes, and to others. It runs in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio")  # the extra "app"
pytestmark = pytest.mark.slow


def ask(server: Any, path: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(server.address + path, **options), timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_the_page_is_served_with_a_policy_that_allows_no_other_host(server: Any) -> None:
    status, headers, _ = ask(server, "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]


def test_the_download_is_the_view_of_its_link(server: Any) -> None:
    _, headers, body = ask(server, "/picture.png?generator=cgn-digits&shape=3:12")
    assert headers["content-type"] == "image/png"
    with Image.open(BytesIO(body)) as image:
        assert image.size == (4 * 128 + 3 * 2, 128)
    with Image.open(BytesIO(ask(server, "/picture.png?generator=vae-digits&tab=walk")[2])) as image:
        assert image.n_frames == 48  # type: ignore[attr-defined]


@pytest.mark.parametrize("query", ["shape=10:1", "generator=/etc/passwd", "tab=report", "shape=%00"])
def test_a_wrong_download_is_a_sentence(server: Any, query: str) -> None:
    status, _, body = ask(server, f"/picture.png?{query}")
    assert status == 400
    assert body.endswith(b".")


def test_the_report_is_shown_and_no_other_file_of_its_folder(server: Any) -> None:
    _, headers, body = ask(server, "/report.html")
    assert b"The background gap" in body
    assert "sandbox" in headers["content-security-policy"]
    for path in ("/secret.txt", "/report/secret.txt", "/report.html/../secret.txt"):
        assert b"not for the page" not in ask(server, path)[2]


@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml", "genaug/explorer/page.py", "secret.txt"])
def test_no_file_is_served(server: Any, report: Path, path: str) -> None:
    for given in (path, str(report / path)):
        assert ask(server, f"/gradio_api/file={given}")[0] in (403, 404)


def test_uploads_are_refused(server: Any) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n1\r\n--x--\r\n'
    status, _, answer = ask(server, "/gradio_api/upload", data=body, headers=headers)
    assert status == 403
    assert b"takes no uploads" in answer


def test_a_page_of_another_name_reads_nothing(server: Any) -> None:
    """A name that resolves to this machine makes its page one origin with this one, but for the name."""
    status, _, body = ask(server, "/report.html", headers={"Host": "elsewhere.example:80"})
    assert status == 400
    assert b"background gap" not in body


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_port_in_use_is_said_and_ctrl_c_or_a_service_manager_ends_the_page_with_a_line(
    server: Any, number: signal.Signals
) -> None:
    port = server.address.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "genaug", "explore", "cgn-digits", "--no-browser", "--port", port]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    try:
        with urllib.request.urlopen(second.split(" at ")[1].split()[0], timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert first.startswith(f"port {port} is in use: took ")
    assert (rest, process.returncode) == ("genaug explore has stopped\n", 0)
