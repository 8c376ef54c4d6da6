from __future__ import annotations

import shutil
import subprocess
import wave
from pathlib import Path

import pytest
import torch
from PIL import Image

from genaug._common.video import save_video


def test_a_film_of_nothing_is_refused(tmp_path: Path) -> None:
    for name in ("walk.gif", "walk.mp4"):
        with pytest.raises(ValueError, match="frames must hold at least one, got none"):
            save_video(tmp_path / name, [])
        assert not (tmp_path / name).exists()


def test_a_gif_has_every_frame_at_25_a_second(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert save_video(tmp_path / "walk.gif", frames) == tmp_path / "walk.gif"
    with Image.open(tmp_path / "walk.gif") as picture:
        assert picture.n_frames == 5
        assert picture.info["duration"] == 40
    with pytest.raises(ValueError, match=r"must end in \.gif or \.mp4, got 'walk\.avi'"):
        save_video(tmp_path / "walk.avi", frames)


def test_without_ffmpeg_an_mp4_becomes_a_gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert save_video(tmp_path / "walk.mp4", frames) == tmp_path / "walk.gif"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk.gif"]


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_an_mp4_has_pictures_and_music(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    with wave.open(str(song), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(48_000))
    frames = torch.zeros(75, 3, 33, 33, dtype=torch.uint8)  # odd sides, which players do not like
    assert save_video(tmp_path / "dance.mp4", frames, music=song) == tmp_path / "dance.mp4"
    command = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_type,width", "-of", "csv=p=0"]
    shown = subprocess.run([*command, str(tmp_path / "dance.mp4")], capture_output=True, text=True, check=True).stdout
    assert "video,34" in shown
    assert "audio" in shown


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_what_ffmpeg_says_is_passed_on_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"no music")
    with pytest.raises(RuntimeError, match=r"ffmpeg could not write dance\.mp4"):
        save_video(tmp_path / "dance.mp4", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), music=tmp_path / "song.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
