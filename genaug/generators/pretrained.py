"""`save_pretrained`, `from_pretrained` and `push_to_hub` for generators: safetensors, config.json, and an illustrated
card."""

from __future__ import annotations

import json
import os
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from genaug._common.files import DIGEST, atomic_path, writable_folder
from genaug.generators.images import to_uint8

if TYPE_CHECKING:
    from PIL import Image

FILES = ["model.safetensors", "config.json", "samples.png", "README.md"]
_COLUMNS, _SIDE, _GAP, _MARGIN = 8, 112, 4, 108  # contact sheet: images per row, and lengths in pixels

Self = TypeVar("Self", bound="Pretrained")


class Pretrained:
    """Saving and loading for the trainable and fast version of a generator.

    The fast form has folded weights, so it saves the file that it was loaded from.
    """

    asset_kind: ClassVar[str]
    origin: str | None = None  # the name that `load_generator` was called with

    def configuration(self) -> dict[str, Any] | None:
        """Return the configuration of the network, for kinds that have configurations."""
        return None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write model.safetensors, config.json, samples.png and README.md, and return the folder.

        `from_pretrained`, `load_generator` and the datasets take the folder, or a Hub repository with these files.

        Raises:
            ValueError: this is a fast form that was not loaded by name.
            OSError: the folder cannot be written.
        """
        from genaug.assets import load_asset, save_asset

        metadata: dict[str, str] = {}
        if hasattr(self, "fast"):
            assert isinstance(self, nn.Module)
            state, config = self.state_dict(), self.configuration()
            # files leave out what only training needs, such as the frozen BigGAN of CGN
            state = {name: value for name, value in state.items() if not name.startswith(_surplus(self.asset_kind))}
            if config is not None:
                metadata["config"] = json.dumps(config)
        elif self.origin is not None:
            state, stored = load_asset(self.origin)
            metadata = {key: value for key, value in stored.items() if key not in ("kind", "format_version", DIGEST)}
            config = json.loads(metadata["config"]) if "config" in metadata else None
        else:
            raise ValueError(
                f"{type(self).__name__} has folded weights, which cannot be trained on: save the form it was made from"
            )
        folder = writable_folder(folder)
        save_asset(folder / "model.safetensors", state, self.asset_kind, **metadata)
        with atomic_path(folder / "config.json") as temporary:
            content = {"library_name": "genaug", "kind": self.asset_kind, "config": config}
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        with atomic_path(folder / "samples.png") as temporary:
            contact_sheet(self).save(temporary)
        with atomic_path(folder / "README.md") as temporary:
            temporary.write_text(self._card(metadata))
        return folder

    @classmethod
    def from_pretrained(cls: type[Self], name: str | os.PathLike[str], **options: Any) -> Self:
        """Return the generator of a folder, a Hub repository ("owner/repo", "owner/repo@revision") or a name.

        Args:
            name: as for `load_generator`.
            options: `device` and `dtype`, for the fast forms.

        Raises:
            genaug.AssetError: the generator is not available, or is of another class.
        """
        from genaug.assets import AssetError
        from genaug.generators import load_generator, load_trainable

        found = load_trainable(name) if hasattr(cls, "fast") and not options else load_generator(name, **options)
        if not isinstance(found, cls):
            raise AssetError(f"{os.fspath(name)!r} is a {type(found).__name__}, expected a {cls.__name__}")
        return found

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes to "OWNER/NAME" on the Hub, and return the commit.

        Raises:
            ValueError: the name of the repository is not valid.
            genaug.AssetError: the Hub cannot be reached or refuses the upload.
        """
        from tempfile import TemporaryDirectory

        from genaug.assets.hub import check_repository, upload

        check_repository(repository)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            card = Path(folder, "README.md")
            card.write_text(card.read_text().replace("OWNER/REPOSITORY", repository))
            return upload(repository, Path(folder), FILES, message="Upload a generator of genaug", private=private)

    def _card(self, metadata: dict[str, str]) -> str:
        from genaug.assets import KINDS

        network: Any = self
        licence = metadata.get("licence", "unknown")
        example = dedent(KINDS[self.asset_kind].example).strip().format(file="OWNER/REPOSITORY")
        rows = {
            "images": f"{network.image_size} x {network.image_size} pixels, {network.num_classes:,} classes",
            "noise": f"{network.z_dim} numbers",
            "source": metadata.get("source", "not stated"),
            "licence": licence if licence != "unknown" else "not stated",
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        stated = f"license: {licence.lower()}\n" if licence != "unknown" else ""
        return (
            f"---\n{stated}library_name: genaug\ntags:\n- genaug\n- {self.asset_kind}\n---\n\n"
            f"# A generator of kind {self.asset_kind}\n\n![Samples of the generator](samples.png)\n\n"
            f"| | |\n|---|---|\n{table}\n\n"
            f"## Use\n\n```bash\npip install genaug\n```\n\n```python\n{example}\n```\n"
        )


def _surplus(kind: str) -> tuple[str, ...]:
    from genaug.assets import KINDS

    return KINDS[kind].surplus


def contact_sheet(generator: Any) -> Image.Image:
    """Draw images of a generator with fixed noise.

    For a counterfactual generator, the rows are shapes, textures, backgrounds and composite images. For any other, each
    row is one of four classes, and each column has the same noise.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = _rows(generator)
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (_MARGIN + _COLUMNS * step + _GAP, len(rows) * step + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (label, images) in enumerate(rows.items()):
        top = _GAP + row * step
        draw.text((_MARGIN - 12, top + _SIDE / 2), label, fill="#333333", font=font, anchor="rm")
        for column, image in enumerate(images):
            tile = Image.fromarray(image.permute(1, 2, 0).numpy())
            enlarged = tile.width <= _SIDE
            tile = tile.resize((_SIDE, _SIDE), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
            sheet.paste(tile, (_MARGIN + column * step, top))
    return sheet


@torch.no_grad()
def _rows(generator: Any) -> dict[str, Tensor]:
    tensor = next((value for value in generator.state_dict().values() if value.is_floating_point()), torch.zeros(1))
    device, kind = tensor.device, tensor.dtype
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(_COLUMNS, generator.z_dim, generator=draws).clamp(-2, 2).to(device, kind)
    classes = generator.num_classes
    training = generator.training
    generator.eval()
    try:
        if not hasattr(generator, "mechanisms"):
            rows = {}
            for label in [i * classes // 4 for i in range(min(4, classes))]:
                labels = torch.full((_COLUMNS,), label, device=device)
                rows[f"class {label}"] = generator(z, labels, 1.0)
        else:
            noise = [z] + [torch.randn(z.shape, generator=draws).clamp(-2, 2).to(device, kind) for _ in range(2)]
            drawn = [torch.randint(classes, (_COLUMNS,), generator=draws).to(device) for _ in range(3)]
            # the background's class differs from the texture's, so that objects stand out
            drawn[2] = (drawn[1] + drawn[2] % max(classes - 1, 1) + 1) % classes
            mask, texture, background = generator.mechanisms(noise, drawn, 1.0)
            texture, background = texture.to(mask.dtype), background.to(mask.dtype)
            rows = {
                "shape": mask.expand(-1, 3, -1, -1) * 2 - 1,
                "texture": texture,
                "background": background,
                "image": mask * texture + (1 - mask) * background,
            }
    finally:
        generator.train(training)
    return {name: to_uint8(images).cpu() for name, images in rows.items()}
