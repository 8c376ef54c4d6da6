"""The beats of a piece of music, and a walk in step with them."""

from __future__ import annotations

import os
import wave
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SHORTEST_BEAT = 0.25  # seconds between beats
LEAST_RISE = 3.0  # decibels within 10 ms: what even noise does not reach by chance


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
    """Return when the music gets suddenly louder: (K,) seconds, rising, at least a quarter of a second apart.

    The loudness of every 10 ms in decibels is compared with that of 10 ms before. Rises of at least 3 dB that are more
    than a deviation above the mean of the second around them are beats, the greatest first.

    Args:
        samples: (N,) in [-1, 1].
        rate: of them a second.
    """
    from scipy.signal import find_peaks

    hop = max(1, round(rate / 100))
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    if len(frames) < 2:
        return torch.empty(0, dtype=torch.float64)
    loudness = 10 * (frames.square().mean(dim=1) + 1e-6).log10()
    rise = loudness.diff().clamp(min=0)
    around = torch.nn.functional.pad(rise[None], (50, 50))[0].unfold(0, 101, 1)
    least = (around.mean(dim=1) + around.std(dim=1)).clamp(min=LEAST_RISE)
    peaks, _ = find_peaks(rise.numpy(), height=least.numpy(), distance=max(1, SHORTEST_BEAT * rate / hop))
    return torch.from_numpy(peaks + 1).double() * hop / rate  # the rise to a frame is at its beginning


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
