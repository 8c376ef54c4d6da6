import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from genaug._common.files import (
    ImageError,
    atomic_path,
    image_files,
    open_as_published,
    open_image,
    open_with_alpha,
    sweep,
    writable_folder,
)


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
    with atomic_path(tmp_path / "private") as path:
        path.unlink()  # as a writer does that makes its own file, and for its owner alone
        path.touch(mode=0o600)
    (tmp_path / "b").write_text("")
    assert len({(tmp_path / name).stat().st_mode for name in ("a", "private", "b")}) == 1


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


def killed(tmp_path, code):
    """Runs code that is killed where it says so, as the scheduler's last signal does."""
    begin = f"import os\nfrom pathlib import Path\nfrom genaug._common.files import *\nout = Path({str(tmp_path)!r})\n"
    run = subprocess.run([sys.executable, "-c", f"{begin}{code}"], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr


def test_what_a_killed_process_was_writing_is_swept_and_other_hidden_files_stay(tmp_path):
    (tmp_path / ".notes-20240101.txt").write_text("mine")
    kill = "os.kill(os.getpid(), 9)"
    killed(tmp_path, f"with atomic_path(out / 'checkpoint.pt') as path:\n    path.write_bytes(b'half')\n    {kill}")
    killed(
        tmp_path, f"with staging_folder(out, 'data') as staged:\n    (staged / 'a').write_bytes(b'half')\n    {kill}"
    )
    assert len(list(tmp_path.iterdir())) == 3
    with atomic_path(tmp_path / "live") as live:
        live.write_text("live")
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".notes-20240101.txt", live.parent.name])


def test_a_command_sweeps_the_folder_that_it_writes_to(tmp_path):
    kill = "os.kill(os.getpid(), 9)"
    killed(tmp_path, f"with atomic_path(out / 'checkpoint.pt') as path:\n    path.write_bytes(b'half')\n    {kill}")
    writable_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ["path.write_bytes(bytes(200_000))", "torch.save(torch.zeros(200_000), path)"])
def test_a_full_disk_names_the_file(tmp_path, write):
    code = f"""
import resource, signal, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a quota: EFBIG
from genaug._common.files import atomic_path
with atomic_path({str(tmp_path / "result.pt")!r}) as path:
    {write}
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"OSError: cannot write {tmp_path / 'result.pt'}: the disk or a quota is full (")
    assert list(tmp_path.iterdir()) == []


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def corner_picture(mode="RGB"):
    """3 x 2 pixels: red in the upper left corner, blue elsewhere."""
    image = Image.new("RGB", (3, 2), (0, 0, 255))
    image.putpixel((0, 0), (255, 0, 0))
    return image.convert(mode)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (2, 1)), (6, (1, 0)), (8, (0, 2))])
def test_the_exif_orientation_is_applied(tmp_path, orientation, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(corner_picture(), tmp_path / "a.png", exif=exif)
    image = open_image(path)
    assert image.size == ((2, 3) if orientation in (6, 8) else (3, 2))
    pixels = np.asarray(image)
    assert pixels[corner[1], corner[0]].tolist() == [255, 0, 0]
    assert (pixels == [255, 0, 0]).all(-1).sum() == 1
    assert open_as_published(path).size == (3, 2)


def test_16_bit_gray_is_scaled_by_its_range(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(values), tmp_path / "a.png")
    assert np.asarray(open_image(path))[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(open_image(tmp_path / "a.pgm"), open_image(path))


def test_pixels_without_a_known_range_are_refused(tmp_path):
    for name, dtype, largest in (("f.tif", np.float32, 1), ("i.tif", np.int32, 100_000), ("j.tif", np.int32, 255)):
        path = save(Image.fromarray(np.array([[0, largest]], dtype=dtype)), tmp_path / name)
        with pytest.raises(
            ImageError, match=rf"{name} does not open as an image \(its pixels are .*convert it to 8 bits"
        ):
            open_image(path)


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    path = save(Image.fromarray(rgba), tmp_path / "a.png")
    assert np.asarray(open_image(path)).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    assert np.asarray(open_with_alpha(path)).tolist() == rgba.tolist()
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    path = save(palette, tmp_path / "p.png", transparency=1)
    assert np.asarray(open_image(path)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = save(corner_picture(mode), tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert np.asarray(image).tolist() == np.asarray(corner_picture(mode).convert("RGB")).tolist()


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = save(frames[0], tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(open_image(path))[0, 0].tolist() == [255, 0, 0]


def test_a_file_that_does_not_open_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no image")
    for opens in (open_image, open_with_alpha, open_as_published):
        with pytest.raises(ImageError, match=r"a\.jpg does not open as an image"):
            opens(path)


def test_images_are_listed_as_torchvision_numbers_them_without_hidden_files(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a/x-y/1.png", "a/x/1.png", "a/0.jpg"):
        save(corner_picture(), tmp_path / name)
    plain = ImageFolder(tmp_path)
    assert [(str(tmp_path / name), label) for name, label in image_files(tmp_path).files] == plain.samples
    for name in ("b/._2.png", "b/.ipynb_checkpoints/2.png", "a/__MACOSX/1.png", ".cache/1.png"):
        save(corner_picture(), tmp_path / name)
    for name in ("a/notes.txt", "README"):
        (tmp_path / name).write_text("")
    save(corner_picture(), tmp_path / "a/0_mask.png")
    found = image_files(tmp_path)
    assert [(str(tmp_path / name), label) for name, label in found.files] == plain.samples
    assert (found.classes, found.hidden) == (("a", "b"), 4)
    others = ["README", "a/0_mask.png", "a/notes.txt"]
    assert found.others == others
    assert found.skipped == f"4 hidden files or folders and 3 files that are no photographs ({', '.join(others)})"


def test_a_photograph_that_is_called_a_mask_is_one(tmp_path):
    for name in ("a/tiger_mask.png", "a/lion.jpg", "a/lion_mask.jpg"):
        save(corner_picture(), tmp_path / name)
    assert len(image_files(tmp_path).files) == 3


def test_the_suffix_of_a_mask_ignores_case(tmp_path):
    for name in ("a/1.jpg", "a/1_mask.PNG"):
        save(corner_picture(), tmp_path / name)
    found = image_files(tmp_path)
    assert (found.files, found.others) == ([("a/1.jpg", 0)], ["a/1_mask.PNG"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_skipped_file_whose_name_is_not_utf_8_can_be_printed(tmp_path):
    save(corner_picture(), tmp_path / "a/1.jpg")
    (tmp_path / "a" / os.fsdecode(b"\xe9.txt")).write_text("")
    assert image_files(tmp_path).skipped == r"1 file that is no photograph (a/\udce9.txt)"


def test_folders_without_classes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        image_files(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"must have one folder per class, such as .*dog, got none"):
        image_files(tmp_path)
    save(corner_picture(), tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match="got images without a class folder"):
        image_files(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="class 'empty' has no image: remove the folder"):
        image_files(tmp_path)
    (tmp_path / "empty" / "1.HEIC").touch()
    with pytest.raises(ValueError, match=r"has no image, but files .*, such as empty/1\.HEIC: remove"):
        image_files(tmp_path)


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with atomic_path(tmp_path / "a") as path:
        path.write_text("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("folders", "fix"),
    [
        (("train", "val"), "train"),
        (("Test", "Validation"), "Test"),
        (("test",), "test"),
        (("dog", "train", "test"), "train"),
    ],
)
def test_splits_are_not_classes(tmp_path: Path, folders: tuple[str, ...], fix: str) -> None:
    for name in folders:
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "1.png").touch()
    with pytest.raises(ValueError, match=f"named as splits.*{folders[0]} .1.*Pass one of them, such as .*{fix}$"):
        image_files(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert image_files(tmp_path).told == f"{tmp_path}: 2 classes: bus (1), train (1)"


def test_a_folder_with_nearly_the_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos" / "train").mkdir(parents=True)
    near = tmp_path / "photos" / "train"
    for wrong in (tmp_path / "photos" / "trian", tmp_path / "fotos" / "train"):
        with pytest.raises(FileNotFoundError, match=f"no such folder: {wrong}; did you mean '{near}'"):
            image_files(wrong)
    with pytest.raises(FileNotFoundError, match=r"no such folder: [^;]*$"):
        image_files(tmp_path / "zebra")
