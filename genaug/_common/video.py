"""Convert frames to a GIF (Pillow) or an MP4 (ffmpeg, if installed)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from genaug._common.files import atomic_path

RATE = 25  # frames per second; a GIF stores the 40 ms of a frame exactly


def moves(path: str | os.PathLike[str]) -> bool:
    """Return whether the suffix of this file name is that of an animation: .gif or .mp4."""
    return Path(path).suffix.lower() in (".gif", ".mp4")


def save_video(
    path: str | os.PathLike[str],
    frames: Tensor | Iterable[Tensor],
    *,
    rate: float = RATE,
    music: str | os.PathLike[str] | None = None,
) -> Path:
    """Write frames as an animation.

    Args:
        path: file that ends in .gif or .mp4. Without ffmpeg, an .mp4 becomes a .gif of the same name.
        frames: (N, 3, H, W) uint8, N at least 1; or an iterable of such batches, so that a long .mp4 does not have to
            fit in memory. A .gif does.
        rate: frames per second.
        music: .wav file with the sound of an .mp4. A GIF has no sound.

    Returns:
        The path that was written, with the suffix of its format.

    Raises:
        ValueError: the path has another suffix, or there are no frames.
        RuntimeError: ffmpeg failed. The message is the last line of its output.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if not moves(path):
        raise ValueError(f"a moving picture's name must end in .gif or .mp4, got {path.name!r}")
    batches = iter([frames] if isinstance(frames, Tensor) else frames)
    pixels: Iterator[Any] = (frame.permute(1, 2, 0).contiguous().numpy() for batch in batches for frame in batch.cpu())
    if (first := next(pixels, None)) is None:
        raise ValueError("frames must hold at least one, got none")
    pixels = chain([first], pixels)
    if path.suffix.lower() == ".mp4" and shutil.which("ffmpeg"):
        _save_mp4(path, pixels, rate, music)
        return path
    if path.suffix.lower() == ".mp4":
        path = path.with_suffix(".gif")
    from PIL import Image

    pictures = map(Image.fromarray, pixels)
    with atomic_path(path) as temporary:
        next(pictures).save(temporary, save_all=True, append_images=pictures, duration=round(1000 / rate), loop=0)
    return path


def _save_mp4(path: Path, pixels: Iterator[Any], rate: float, music: str | os.PathLike[str] | None) -> None:
    first = next(pixels)
    height, width = first.shape[:2]
    sound = [] if music is None else ["-i", os.fspath(music), "-c:a", "aac", "-shortest"]
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as said:
        command = [
            *("ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", str(rate), "-i", "-", *sound),
            # players need even side lengths and this pixel format
            *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-pix_fmt", "yuv420p", os.fspath(temporary)),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as ffmpeg:
            assert ffmpeg.stdin is not None
            try:
                with suppress(BrokenPipeError):  # ffmpeg has stopped; its error is read below
                    for frame in chain([first], pixels):
                        ffmpeg.stdin.write(frame.tobytes())
                    ffmpeg.stdin.flush()
            except BaseException:
                ffmpeg.kill()
                raise
            finally:
                with suppress(BrokenPipeError):
                    ffmpeg.stdin.close()
        if ffmpeg.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise RuntimeError(f"ffmpeg could not write {path.name}: {lines[-1]}")
