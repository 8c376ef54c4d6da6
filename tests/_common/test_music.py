from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch

from genaug._common.music import beats, keep_step, read_wav

CLICKS = (0.5, 1.0, 1.75, 2.5)


def clicks(path: Path, *, rate: int = 8000, channels: int = 1, seconds: float = 3.0) -> Path:
    """Faint noise with a loud, decaying click at each of `CLICKS`."""
    draw = torch.Generator().manual_seed(0)
    samples = 0.01 * torch.randn(round(seconds * rate), generator=draw)
    for click in CLICKS:
        begin = round(click * rate)
        samples[begin : begin + 400] += torch.linspace(0.8, 0, 400) * torch.randn(400, generator=draw).sign()
    whole = (samples.clamp(-1, 1) * 32767).to(torch.int16)[:, None].expand(-1, channels).contiguous()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(whole.numpy().tobytes())
    return path


@pytest.mark.parametrize("channels", [1, 2])
def test_beats_are_where_the_clicks_are(tmp_path: Path, channels: int) -> None:
    samples, rate = read_wav(clicks(tmp_path / "clicks.wav", channels=channels))
    assert (rate, len(samples)) == (8000, 24_000)
    found = beats(samples, rate)
    assert all(min(abs(found - click)) < 0.02 for click in CLICKS)
    assert len(found) <= len(CLICKS) + 1  # the beginning itself may count as one


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_samples_is_read_alike_and_an_end_cut_short_is_left_out(tmp_path: Path, width: int) -> None:
    wanted = [0.0, 0.5, -0.5, -1.0]
    with wave.open(str(tmp_path / "song.wav"), "wb") as file:
        file.setparams((2, width, 8000, 0, "NONE", ""))
        for value in wanted:
            number = round(value * 2 ** (8 * width - 1)) + (128 if width == 1 else 0)
            file.writeframes(2 * number.to_bytes(width, "little", signed=width > 1))
    samples, _ = read_wav(tmp_path / "song.wav")
    assert samples.tolist() == wanted
    whole = (tmp_path / "song.wav").read_bytes()
    (tmp_path / "song.wav").write_bytes(whole[:-1])
    assert read_wav(tmp_path / "song.wav")[0].tolist() == wanted[:-1]


def test_between_clicks_that_are_far_apart_noise_is_no_beat() -> None:
    draw = torch.Generator().manual_seed(0)
    samples = 0.05 * torch.randn(10 * 44_100, generator=draw)
    for second in (2, 5, 8):
        samples[second * 44_100 :][:2000] *= 10
    assert beats(samples, 44_100).tolist()[-3:] == pytest.approx([2, 5, 8], abs=0.011)
    assert len(beats(samples, 44_100)) <= 4  # the beginning itself may count as one


def test_silence_has_no_beat_but_its_beginning() -> None:
    assert len(beats(torch.zeros(8000), 8000)) == 0


def test_a_walk_that_keeps_step_is_at_point_k_at_beat_k_and_fastest_right_after() -> None:
    times = [i / 100 for i in range(300)]
    where = keep_step(times, [0.5, 1.0, 2.0])
    assert where[0] == 0
    assert [where[i] for i in (50, 100, 200)] == pytest.approx([1, 2, 3], abs=1e-6)
    steps = torch.tensor(where).diff()
    assert (steps >= 0).all()
    for beat in (50, 100, 200):
        assert steps[beat] > 5 * steps[beat - 2]


def test_beats_are_filled_in_at_their_own_pace_where_the_music_has_none() -> None:
    """An intro without a beat is walked through, and what comes before the first has no part in the pace after it."""
    times = [i / 100 for i in range(1300)]
    where = keep_step(times, [10.0, 10.5, 11.0])
    assert [where[i] for i in (50, 100, 1000, 1050, 1100, 1150, 1200)] == pytest.approx(
        [1, 2, 20, 21, 22, 23, 24], abs=1e-6
    )


def test_a_beat_at_once_does_not_set_the_pace() -> None:
    assert keep_step([0.0, 0.5, 1.0, 10.0], [0.02]) == pytest.approx([0, 1, 2, 20])


def test_without_beats_a_walk_goes_on_at_an_even_pace() -> None:
    where = keep_step([0.0, 0.5, 1.0, 1.5], [])
    assert where == pytest.approx([0, 1, 2, 3])


@pytest.mark.parametrize("content", [b"", b"RIFF of no music"])
def test_what_is_no_wav_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "song.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"music must be a \.wav of whole numbers, but song\.wav is not"):
        read_wav(tmp_path / "song.wav")
