"""Find the beats of a piece of music, and move a walk in step with them."""

from __future__ import annotations

import os
import wave
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SHORTEST_BEAT = 0.25  # seconds between beats
LEAST_RISE = 3.0  # decibels within 10 ms; noise alone does not reach it


def read_wav(path: str | os.PathLike[str]) -> tuple[Tensor, int]:
    """Return the samples of an integer .wav file, (N,) in [-1, 1], averaged over channels, and the sample rate.

    Raises:
        ValueError: the file is not an integer .wav, or it is empty.
        OSError: the file cannot be read.
    """
    try:
        with wave.open(os.fspath(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"music must be a .wav of whole numbers, but {Path(path).name} is not ({error})") from None
    content = content[: len(content) // (width * channels) * (width * channels)]  # a cut file may end within a sample
    if width not in (1, 2, 3, 4) or not content:
        raise ValueError(
            f"music must have samples of 8 to 32 bits, but {Path(path).name} has {8 * width}, {len(content)} bytes"
        )
    numbers = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, width)
    if width == 1:
        samples = (numbers.double()[:, 0] - 128) / 128
    else:  # zero low bytes widen all samples to 32 bits
        padded = torch.nn.functional.pad(numbers, (4 - width, 0))
        samples = padded.contiguous().view(torch.int32).double()[:, 0] / 2**31
    return samples.reshape(-1, channels).mean(dim=1).float(), rate


def beats(samples: Tensor, rate: int) -> Tensor:
    """Return the times at which the music suddenly gets louder: (K,) seconds, rising, at least 0.25 seconds apart.

    The loudness of each 10 ms, in decibels, is compared with that of the 10 ms before. A beat is a rise of at least 3
    dB that is more than a standard deviation above the mean rise in the second around it. Where beats are too close
    together, the largest rise wins.

    Args:
        samples: (N,) in [-1, 1].
        rate: samples per second.
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
    return torch.from_numpy(peaks + 1).double() * hop / rate  # a rise is at the start of the later frame


def keep_step(times: Sequence[float], beats: Sequence[float]) -> list[float]:
    """Return the position of a walk at each time: 0 at the start, plus one at each beat, fastest right after a beat.

    Args:
        times: in seconds, rising from 0.
        beats: in seconds, rising, at least 0.25 seconds apart. Before the first beat and after the last, the walk
            continues at the mean pace of the beats, or at two beats per second if there are fewer than two.

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
