"""Banks of cutouts go to the Hub and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from assets.conftest import point_hub_at
from banks import write_bank
from hub_server import REVISION, HubServer

from genaug import AssetError, CounterfactualDataset, PhotographBank, load_generator
from genaug.assets import cache, lock
from genaug.cli import main
from genaug.photographs.build import repair_bank
from genaug.photographs.format import BankFiles, read_settings, write_settings

LABELS = [0, 1, 2] * 3


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GENAUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_key")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with HubServer() as server:
        point_hub_at(server.url, tmp_path / "hf", monkeypatch)
        yield server


@pytest.fixture
def bank(tmp_path: Path) -> PhotographBank:
    folder = write_bank(tmp_path / "bank", LABELS, doubtful=[8])
    write_settings(folder, read_settings(folder), source="/home/somebody/photos", masks="/home/somebody/masks")
    return PhotographBank(folder, placement=(0.2, 0.6), blend=("hard", "poisson"))


def images(bank: object, **options: object) -> torch.Tensor:
    return CounterfactualDataset(bank, length=12, seed=1, **options).images(range(12))


def test_a_saved_bank_comes_back_bit_by_bit(bank: PhotographBank, tmp_path: Path) -> None:
    folder = bank.save_pretrained(tmp_path / "saved")
    for name in ("shard-000000.tar", "shard-000000.jsonl", "summary.json"):
        assert (folder / name).read_bytes() == (bank.files.path / name).read_bytes()
    for again in (PhotographBank.from_pretrained(folder), load_generator(folder)):
        assert (again.placement, again.blend) == ((0.2, 0.6), ("hard", "poisson"))
        assert torch.equal(images(again), images(bank))
    assert PhotographBank.from_pretrained(folder, blend="soft").blend == ("soft",)
    assert json.loads((folder / "config.json").read_text())["library_name"] == "genaug"
    assert not any(b"somebody" in path.read_bytes() for path in folder.iterdir())  # paths of this machine
    with pytest.raises(ValueError, match=r"photographs must be given, since .*saved was copied"):
        repair_bank(folder)


def test_a_pushed_bank_is_a_name_where_a_bank_is(
    bank: PhotographBank, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bank.push_to_hub("me/bank") == REVISION
    said = capsys.readouterr().err
    assert "uploading 9 photographs and their cutouts (0." in said
    assert "MB) to me/bank, which is private if it is new" in said
    assert hub.private == {"me/bank": True}
    assert sorted(hub.uploads["me/bank"]) == [
        "README.md", "bank.json", "config.json", "samples.png", "shard-000000.jsonl", "shard-000000.tar",
        "summary.json",
    ]  # fmt: skip
    for name in ("me/bank", f"me/bank@{REVISION}"):
        assert torch.equal(images(name), images(bank))
    assert PhotographBank("me/bank").placement is None
    assert len(BankFiles("me/bank")) == 8
    assert main(["sample", "me/bank", "--out", str(tmp_path / "sheet.png")]) == 0
    assert main(["render", "me/bank", "--out", str(tmp_path / "set"), "--num", "4"]) == 0
    assert main(["assets", "pull", "me/bank"]) == 0
    assert "huggingface" not in str(cache.home("me/bank"))
    hub.log.clear()
    assert torch.equal(images("me/bank"), images(bank))
    assert hub.log == []  # nobody is asked again


def test_the_audit_takes_a_pushed_bank(bank: PhotographBank, hub: HubServer, tmp_path: Path) -> None:
    bank.push_to_hub("me/bank")
    model = f"{__name__}:network"
    command = ["audit", model, "--data", "me/bank", "--out", str(tmp_path / "report"), "--backgrounds", "2"]
    assert main(command) == 0
    assert (tmp_path / "report" / "index.html").is_file()


def network() -> torch.nn.Module:
    """A classifier of the bank's three classes."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3))


def test_the_card_shows_the_bank_and_its_example_runs(bank: PhotographBank, hub: HubServer) -> None:
    bank.push_to_hub("me/bank", private=False)
    assert hub.private == {"me/bank": False}
    card = hub.uploads["me/bank"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: genaug\n")
    assert "The repository contains the photographs themselves" in card
    assert "](samples.png)" in card
    example = card.split("```python\n")[1].split("```")[0]
    exec(example.replace("length=50_000", "length=4"), names := {})  # as somebody would copy it
    assert names["image"].shape == (3, 32, 32)


def test_a_bank_that_changed_after_its_first_use_is_refused(
    bank: PhotographBank, hub: HubServer, tmp_path: Path
) -> None:
    bank.push_to_hub("me/bank")
    PhotographBank("me/bank")
    # the branch moves on, and the name stays what it was at its first use
    hub.branches["main"] = "f" * 40
    assert len(PhotographBank("me/bank").files) == 8
    assert {source.commit for source in lock.files_of("me/bank").values()} == {REVISION}
    # a server that lies about a commit
    content = hub.files["me/bank", REVISION, "shard-000000.tar"]
    hub.files["me/bank", REVISION, "shard-000000.tar"] = content[:-1] + b"x"
    for path in (tmp_path / "hf").rglob("*"):
        if path.is_file() or path.is_symlink():
            path.unlink()
    with pytest.raises(AssetError, match="has changed since its first use"):
        PhotographBank("me/bank")


def test_a_bank_is_used_offline_and_under_strict_trust(
    bank: PhotographBank, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    bank.push_to_hub("me/bank")
    monkeypatch.setenv("GENAUG_TRUST", "pinned")
    with pytest.raises(AssetError, match="GENAUG_TRUST is 'pinned'"):
        PhotographBank("me/bank")
    PhotographBank(f"me/bank@{REVISION}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    PhotographBank(f"me/bank@{REVISION}")
    assert hub.log == []
    with pytest.raises(
        AssetError, match=r"me/other is not available: there is no such folder here, and .*hf download me/"
    ):
        PhotographBank("me/other")


def test_what_has_no_files_of_its_own_is_not_saved(bank: PhotographBank, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the bank is a subset"):
        bank.subset(range(6)).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="folder must be another than the bank's own"):
        bank.save_pretrained(bank.files.path)
    bank.further = [tmp_path / "beach.jpg"]
    with pytest.raises(ValueError, match="further backgrounds are not part of a bank's files"):
        bank.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="repository must be OWNER/NAME"):
        bank.push_to_hub("bank")
