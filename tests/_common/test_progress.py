from __future__ import annotations

import io

import pytest

from genaug._common import progress as module
from genaug._common.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("size", [(0, 0), (100, 30)])
def test_a_bar_is_seen_on_a_terminal_of_any_size(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    """A container's terminal may say that it is 0 x 0."""
    seen = Terminal()
    monkeypatch.setattr("sys.stderr", seen)
    monkeypatch.setattr(module, "_terminal_size", lambda: size)
    assert list(progress(range(3), description="digits", unit="step")) == [0, 1, 2]
    assert "digits:   0%" in seen.getvalue()


def test_nothing_is_written_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    unseen = io.StringIO()
    monkeypatch.setattr("sys.stderr", unseen)
    assert list(progress(range(3), description="digits")) == [0, 1, 2]
    assert unseen.getvalue() == ""


def test_off_a_terminal_there_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr("sys.stderr", log)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress(total=1000, initial=100, description="render", unit="image") as bar:
        bar.set_postfix({"loss": "0.5"})
        for _ in range(30):
            now[0] += 5
            bar.update(10)
    assert log.getvalue().splitlines() == [
        "render: 220 of 1,000 images, 2 images/s, about 6:30 left, loss 0.5",
        "render: 340 of 1,000 images, 2 images/s, about 5:30 left, loss 0.5",
    ]
