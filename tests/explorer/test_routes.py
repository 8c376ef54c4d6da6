"""What the server answers to requests that the page makes, and to others."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio")  # the extra "app"
from starlette.testclient import TestClient

from genaug.explorer import server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and starlette's own calls


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "index.html").write_text("<!doctype html><title>Audit</title><p>the background gap</p>")
    (folder / "audit.json").write_text("{}")
    (folder / "secret.txt").write_text("not for the page")
    return folder


@pytest.fixture(scope="module")
def client(report: Path) -> Any:
    with TestClient(server.make_app(report=report), base_url="http://127.0.0.1:7860") as found:
        yield found


def test_the_page_is_served_with_a_policy_that_allows_no_other_host(client: Any) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for host in ("fonts.googleapis.com", "fonts.gstatic.com", "cdnjs", "huggingface.co"):
        assert f"https://{host}" not in answer.text.split("window.gradio_config")[0]


def test_the_download_is_the_view_of_its_link(client: Any) -> None:
    answer = client.get("/picture.png?generator=cgn-digits&shape=3:12")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(answer.content)).size == (4 * 128 + 3 * 2, 128)
    walk = client.get("/picture.png?generator=cgan-digits&tab=walk")
    assert Image.open(BytesIO(walk.content)).n_frames == 48


@pytest.mark.parametrize("query", ["shape=10:1", "generator=/etc/passwd", "tab=report", "shape=%00"])
def test_a_wrong_download_is_a_sentence(client: Any, query: str) -> None:
    answer = client.get(f"/picture.png?{query}")
    assert answer.status_code == 400
    assert answer.text.endswith(".")


def test_the_report_is_shown_and_no_other_file_of_its_folder(client: Any) -> None:
    answer = client.get("/report.html")
    assert "the background gap" in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    for path in ("/secret.txt", "/report/secret.txt", "/report.html/../secret.txt"):
        assert "not for the page" not in client.get(path).text


@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml", "genaug/explorer/page.py", "secret.txt"])
def test_no_file_is_served(client: Any, report: Path, path: str) -> None:
    for given in (path, str(report / path)):
        assert client.get(f"/gradio_api/file={given}").status_code in (403, 404)


def test_uploads_are_refused(client: Any) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("x.png", b"x" * 10)})
    assert answer.status_code == 403
    assert "takes no uploads" in answer.text


def test_without_a_report_there_is_none() -> None:
    with TestClient(server.make_app("cgn-digits")) as client:
        assert client.get("/report.html").status_code == 404
