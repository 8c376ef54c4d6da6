from __future__ import annotations

import io

import pytest

from genaug import progress as module
from genaug.progress import progress


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
