"""Convert frames to a GIF (Pillow) or an MP4 (ffmpeg, if installed), and detect the beats of music."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaug._common.files import atomic_path

RATE = 25  # frames a second, of which a GIF keeps the exact time: 40 ms a frame
SHORTEST_BEAT = 0.25  # seconds between beats
LEAST_RISE = 3.0  # decibels within 10 ms: what even noise does not reach by chance


def moves(path: str | os.PathLike[str]) -> bool:
    """Return whether the suffix of this file name is that of an animation, .gif or .mp4."""
    return Path(path).suffix.lower() in (".gif", ".mp4")


def save_video(
    path: str | os.PathLike[str],
    frames: Tensor | Iterable[Tensor],
    *,
    rate: float = RATE,
    music: str | os.PathLike[str] | None = None,
) -> Path:
    """Write frames one after the other.

    Args:
        path: ends in .gif or .mp4. Where ffmpeg is not installed, an .mp4 becomes a .gif of the same name.
        frames: (N, 3, H, W) uint8, N at least 1; or such batches one after the other, so that a long .mp4 need not lie
            in memory, as a .gif does.
        rate: frames a second.
        music: a .wav to lay under an .mp4; a GIF is silent.

    Returns:
        The file that was written, whose suffix says what it became.

    Raises:
        ValueError: another suffix, or no frames.
        RuntimeError: ffmpeg failed; the message is its own.
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
            # players want even sides and this order of colours
            *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-pix_fmt", "yuv420p", os.fspath(temporary)),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as ffmpeg:
            assert ffmpeg.stdin is not None
            try:
                with suppress(BrokenPipeError):  # it has stopped, and has said why
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


def read_wav(path: str | os.PathLike[str]) -> tuple[Tensor, int]:
    """Return the samples of an integer .wav file, (N,) in [-1, 1], averaged over channels, and the sample rate.

    Raises:
        ValueError: it is no such file, or it is empty.
        OSError: it cannot be read.
    """
    try:
        with wave.open(os.fspath(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"music must be a .wav of whole numbers, but {Path(path).name} is not ({error})") from None
    content = content[: len(content) // (width * channels) * (width * channels)]  # a file cut short may end within one
    if width not in (1, 2, 3, 4) or not content:
        raise ValueError(
            f"music must have samples of 8 to 32 bits, but {Path(path).name} has {8 * width}, {len(content)} bytes"
        )
    numbers = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, width)
    if width == 1:
        samples = (numbers.double()[:, 0] - 128) / 128
    else:  # low bytes of nought make every width the same
        padded = torch.nn.functional.pad(numbers, (4 - width, 0))
        samples = padded.contiguous().view(torch.int32).double()[:, 0] / 2**31
    return samples.reshape(-1, channels).mean(dim=1).float(), rate


def beats(samples: Tensor, rate: int) -> Tensor:
    """Return the times in seconds, (K,) float64, when music suddenly gets louder, at least 0.25 seconds apart.

    The loudness of every 10 ms in decibels is compared with that of 10 ms before; rises of at least 3 dB that are more
    than a deviation above the mean of the second around them are beats, the greatest first.

    Args:
        samples: (N,) in [-1, 1].
        rate: of them a second.
    """
    hop = max(1, round(rate / 100))
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    if len(frames) < 2:
        return torch.empty(0, dtype=torch.float64)
    loudness = 10 * (frames.square().mean(dim=1) + 1e-6).log10()
    rise = torch.cat([loudness[:1] + 60, loudness.diff()]).clamp(min=0)
    around = torch.nn.functional.pad(rise[None], (50, 50), mode="constant")[0].unfold(0, 101, 1)
    strong = (rise > around.mean(dim=1) + around.std(dim=1)) & (rise >= LEAST_RISE)
    chosen: list[int] = []
    for frame in rise.argsort(descending=True, stable=True).tolist():
        if strong[frame] and all(abs(frame - other) * hop >= SHORTEST_BEAT * rate for other in chosen):
            chosen.append(frame)
    return torch.tensor(sorted(chosen), dtype=torch.float64) * hop / rate


def keep_step(times: Sequence[float], beats: Sequence[float]) -> list[float]:
    """Return the position of a walk at each time: 0 at the start, plus one at each beat, fastest right after a beat.

    Args:
        times: in seconds, rising from 0.
        beats: in seconds, rising, a quarter of a second apart or more. Where the music has none, before the first and
            after the last, the walk goes on at the mean pace of those that there are, or at two a second.

    Returns:
        Positions, rising.
    """
    marks = [beat for beat in beats if beat >= SHORTEST_BEAT]
    pace = (marks[-1] - marks[0]) / (len(marks) - 1) if len(marks) > 1 else 0.5
    while marks and marks[0] - pace >= SHORTEST_BEAT:
        marks.insert(0, marks[0] - pace)
    marks.insert(0, 0.0)
    while marks[-1] <= times[-1]:
        marks.append(marks[-1] + pace)
    positions, at = [], 0
    for time in times:
        while time >= marks[at + 1]:
            at += 1
        share = (time - marks[at]) / (marks[at + 1] - marks[at])
        positions.append(at + 1 - (1 - share) ** 3)
    return positions
