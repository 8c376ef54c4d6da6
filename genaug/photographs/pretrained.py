"""`save_pretrained`, `from_pretrained` and `push_to_hub` for banks of cutouts, with an illustrated card."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from genaug._common.files import atomic_path, writable_folder
from genaug.assets.cache import read_json
from genaug.assets.folders import generator_folder
from genaug.photographs.format import BANK, SUMMARY, BankFiles, shard_name, shards_of, write_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Unpack

    from genaug.photographs.inpainting import Filling
    from genaug.photographs.masks import Masks

CONFIG = "config.json"
PARTS = (BANK, SUMMARY, CONFIG, "shard-*.tar", "shard-*.jsonl")  # the files that are needed to open a bank
_PICTURE, _CARD = "samples.png", "README.md"

Self = TypeVar("Self", bound="PretrainedBank")


class BuildOptions(TypedDict, total=False):
    """The arguments of `PhotographBank.build` that are given by name, for type checkers."""

    masks: Masks
    size: int
    inpainting: Filling
    image: Literal["jpeg", "png"]
    keep_doubtful: bool
    drop_empty_classes: bool
    skip_bad: bool
    device: torch.device | str | None
    rank: int | None
    world_size: int | None


class BankOptions(TypedDict, total=False):
    """The arguments of `PhotographBank` that are given by name, for type checkers."""

    placement: float | tuple[float, float] | None
    blend: str | Sequence[str]
    backgrounds: str | os.PathLike[str] | None


class PretrainedBank:
    """Methods of `PhotographBank` for saving, sharing and loading."""

    files: BankFiles
    placement: tuple[float, float] | None
    blend: tuple[str, ...]
    further: list[Path]
    order: Tensor

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Copy the bank to a folder, with config.json, samples.png and README.md, and return the folder.

        `from_pretrained`, `load_generator`, the datasets and the commands accept the folder, or a Hub repository with
        these files. Paths of this machine are left out, so `genaug cutouts --repair` must be given the photographs.

        Raises:
            ValueError: the bank is a subset, has additional backgrounds, or is in this folder.
            OSError: the folder cannot be written.
        """
        return self._save(writable_folder(folder), shutil.copyfile, "OWNER/REPOSITORY")

    @classmethod
    def from_pretrained(cls: type[Self], name: str | os.PathLike[str], **options: Unpack[BankOptions]) -> Self:
        """Open the bank of a folder or of a Hub repository ("owner/repo", "owner/repo@revision").

        Args:
            name: as for `load_generator`.
            options: `placement`, `blend` and `backgrounds`, which replace the saved options.

        Raises:
            genaug.AssetError: the repository is not available.
            FileNotFoundError: `name` is not a bank.
        """
        found = generator_folder(name)
        folder = Path(name) if found is None else found[1]
        config = read_json(folder / CONFIG).get("config") or {}
        stored = {key: config[key] for key in ("placement", "blend") if key in config}
        return cls(folder, **{**stored, **options})  # type: ignore[call-arg]

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """Upload the files of `save_pretrained` to "OWNER/NAME" on the Hub, and return the commit.

        This uploads the photographs themselves: the square crop, the object, the mask, the filled background, and the
        names of file and class. This includes photographs of doubtful and dropped cutouts.

        Args:
            repository: the repository, which is created if it does not exist.
            private: create a repository that only its owner can see. An existing repository keeps its visibility.

        Raises:
            ValueError: the repository's name is not valid, the bank is a subset, or it has additional backgrounds.
            genaug.AssetError: the Hub cannot be reached or refuses.
        """
        from genaug.assets.hub import check_repository, upload

        check_repository(repository)
        with TemporaryDirectory() as folder:
            self._save(Path(folder), _linked, repository)
            visible = "private if it is new" if private else "public if it is new"
            photographs = len(self.files.entries) + len(self.files.excluded)
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(
                f"genaug: uploading {photographs:,} photographs and their cutouts ({size / 1e6:.1f} MB) to "
                f"{repository}, which is {visible}",
                file=sys.stderr,
                flush=True,
            )
            files = [*PARTS, _PICTURE, _CARD]
            message = "Upload a bank of cutouts of genaug"
            return upload(repository, Path(folder), files, message=message, private=private, large=True)

    def _save(self, folder: Path, place: Callable[[Path, Path], Any], repository: str) -> Path:
        from genaug.photographs.sheets import save_cutouts

        bank = self.files
        if len(self.order) != len(bank):
            raise ValueError("the bank is a subset and has no files of its own: save the bank that it was taken from")
        if self.further:
            raise ValueError("further backgrounds are not part of a bank's files: open it without backgrounds=")
        if folder.resolve() == bank.path.resolve():
            raise ValueError(f"folder must be another than the bank's own, got {folder}")
        config = {"placement": self.placement, "blend": self.blend}
        content = {"library_name": "genaug", "kind": "photograph-bank", "config": config}
        with atomic_path(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        versions = json.loads((bank.path / BANK).read_text()).get("versions", {})
        write_settings(folder, bank.settings, versions=versions)
        shards = [shard_name(shard) for shard in range(shards_of(bank.settings))]
        for name in [*(f"{shard}{suffix}" for shard in shards for suffix in (".tar", ".jsonl")), SUMMARY]:
            place(bank.path / name, folder / name)
        save_cutouts(bank, folder / _PICTURE)
        with atomic_path(folder / _CARD) as temporary:
            temporary.write_text(_card(bank, repository))
        return folder


def _linked(source: Path, target: Path) -> None:
    """Link a file, or copy it if links are not allowed."""
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def _card(bank: BankFiles, repository: str) -> str:
    classes = ", ".join(bank.classes[:20]) + (", ..." if len(bank.classes) > 20 else "")
    rows = {
        "cutouts": f"{len(bank):,}",
        "doubtful or dropped cutouts, not used": f"{len(bank.excluded):,}",
        "classes": f"{len(bank.classes):,}: {classes}",
        "size": f"{bank.size} x {bank.size} pixels",
        "masks": bank.settings.get("masks", "not stated"),
        "backgrounds filled by": bank.settings.get("inpainting", "not stated"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    example = dedent(f"""
        from genaug import CounterfactualDataset

        dataset = CounterfactualDataset("{repository}", length=50_000, tie=("shape", "texture"), backgrounds="other")
        image, label = dataset[0]
        """).strip()
    return (
        "---\nlibrary_name: genaug\ntags:\n- genaug\n- photograph-bank\n---\n\n# A bank of cutouts\n\n"
        "Objects of photographs, their masks, and the photographs with the objects removed.\n\n"
        f"![Photographs, objects and backgrounds]({_PICTURE})\n\n| | |\n|---|---|\n{table}\n\n"
        "The repository contains the photographs themselves, cropped to squares, and the names of their files. "
        "The photographs keep the licence of their owners.\n\n"
        f"## Use\n\n```bash\npip install genaug\n```\n\n```python\n{example}\n```\n"
    )
