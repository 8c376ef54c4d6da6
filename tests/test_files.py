import os

import pytest

from genaug.files import atomic_path, writable_folder


def test_a_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "deep" / "result.json"
    with atomic_path(target) as path:
        path.write_text("whole")
        assert not target.exists()
        assert path.suffix == ".json"
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["result.json"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as path:
            path.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    with atomic_path(tmp_path / "a") as path:
        path.write_text("")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"cannot write to the folder '.*taken"):
        writable_folder(tmp_path / "taken" / "inner")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"cannot write to the folder '.*closed"):
        writable_folder(folder)
