"""Principal directions of a generator's layer, and the files that hold them.

`fitting` computes these directions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaug._common.files import DIGEST, atomic_path, digest, near_path, one_line, writable_folder
from genaug.assets.ganspace import read_ganspace
from genaug.interventions.random_streams import TRUNCATED_VARIANCE, truncated_normal
from genaug.interventions.steering import evaluating, generator_device, has_latent, layer_output, noise_of, steer

if TYPE_CHECKING:
    import numpy as np

FORMAT = "1"  # of the metadata; in a later format, the same tensors may mean something else


class Directions:
    """Directions in a generator's latent, and the principal components of a layer that they belong to.

    An array alone gives directions of the latent itself: `stdev` is then that of the noise, and
    `explained_variance_ratio` is None. All tensors are float32 on the CPU.

    Args:
        vectors: (k, z_dim), the latent directions c, scaled to unit rows. None if the noise is not a vector; then only
            `mode="activation"` works.
        stdev: (k,), sigma: standard deviation of the layer's output along each component, among samples of one class.
        explained_variance_ratio: (k,) in [0, 1], share of the variance of the layer's output.
        latent_stdev: (k,), standard deviation of the noise along each direction (default: that of BigGAN's noise).
        latent_centre: (k,), mean of the noise along each direction (default: zeros).
        components: (k, ...), principal components r of the layer's output, scaled to unit length. `mode="activation"`
            needs them.
        centre: (num_classes, k), or (1, k) for all classes: mean of the layer's output along its components. A row of
            NaN marks a class whose mean is not known. None if it is the output without noise, as for a linear layer
            (see `fitting.noiseless_centre`).
        layer: name of the layer.
        probe: (n,), some of the layer's outputs for a fixed noise. They identify the generator.

    Raises:
        ValueError: shapes do not fit, a direction is zero, or a number is not finite.
        TypeError: an argument is not an array of numbers.
    """

    def __init__(
        self,
        vectors: Tensor | np.ndarray | Sequence[Sequence[float]] | None = None,
        *,
        stdev: Tensor | None = None,
        explained_variance_ratio: Tensor | None = None,
        latent_stdev: Tensor | None = None,
        latent_centre: Tensor | None = None,
        components: Tensor | None = None,
        centre: Tensor | None = None,
        layer: str | None = None,
        probe: Tensor | None = None,
    ) -> None:
        rows, components = _finite("vectors", vectors), _finite("components", components)
        if rows is None and components is None:
            raise ValueError("directions must have vectors or components, got neither")
        if rows is not None:
            if rows.ndim != 2 or not len(rows):
                raise ValueError(f"directions must be (k, z_dim), got {tuple(rows.shape)}")
            lengths = rows.norm(dim=1, keepdim=True)
            if not lengths.all():
                raise ValueError("directions must not be zero")
            lengths[(lengths - 1).abs() < 1e-6] = 1  # so that reading a file changes no bit
            rows = rows / lengths
        k = len(components if rows is None else rows)
        self.vectors: Any = rows
        default = torch.full((k,), math.sqrt(TRUNCATED_VARIANCE))
        self.latent_stdev = default if latent_stdev is None else _finite("latent_stdev", latent_stdev)
        self.latent_centre = torch.zeros(k) if latent_centre is None else _finite("latent_centre", latent_centre)
        self.stdev = self.latent_stdev.clone() if stdev is None else _finite("stdev", stdev)
        self.explained_variance_ratio = _finite("explained_variance_ratio", explained_variance_ratio)
        self.components = components
        self.centre = _finite("centre", centre, unknown=True)
        self.layer = layer
        self.probe = _finite("probe", probe)
        for name in ("stdev", "explained_variance_ratio", "latent_stdev", "latent_centre"):
            value = getattr(self, name)
            if value is not None and value.shape != (k,):
                raise ValueError(f"{name} of {k} directions must be ({k},), got {tuple(value.shape)}")
        if self.components is not None and len(self.components) != k:
            raise ValueError(f"components of {k} directions must be ({k}, ...), got {tuple(self.components.shape)}")
        if self.centre is not None and (self.centre.ndim != 2 or self.centre.shape[1] != k):
            raise ValueError(f"centre of {k} directions must be (num_classes, {k}), got {tuple(self.centre.shape)}")

        if self.components is not None:
            sizes = self.components.flatten(1).norm(dim=1)
            sizes[((sizes - 1).abs() < 1e-5) | (sizes == 0)] = 1  # as above; a zero component stays zero
            self.components = self.components / sizes.view(-1, *[1] * (self.components.ndim - 1))
            if self.centre is not None:
                self.centre = self.centre / sizes

    def __len__(self) -> int:
        return len(self.latent_stdev)

    def __repr__(self) -> str:
        size = None if self.vectors is None else self.vectors.shape[1]
        return f"Directions(k={len(self)}, z_dim={size}, layer={self.layer!r})"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a complete `.safetensors` file, and return its path."""
        from safetensors.torch import save_file

        tensors = {name: value.contiguous() for name, value in vars(self).items() if isinstance(value, Tensor)}
        metadata = {"kind": "directions", "format_version": FORMAT, DIGEST: digest(tensors)}
        if self.layer is not None:
            metadata["layer"] = self.layer
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Directions:
        """Read a file of `save`, or GANSpace's `.npz` (`lat_comp`, `lat_mean`, `lat_stdev`, `act_*`, `var_ratio`).

        Nothing in the file is executed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or has other content.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}{near_path(path)}")
        return cls(**(read_ganspace(path) if path.suffix == ".npz" else _read_safetensors(path)))

    def save_pretrained(self, folder: str | os.PathLike[str], repository: str = "OWNER/REPOSITORY") -> Path:
        """Write directions.safetensors and a README.md for a Hub repository, and return the folder."""
        folder = writable_folder(folder)
        self.save(folder / "directions.safetensors")
        with atomic_path(folder / "README.md") as temporary:
            temporary.write_text(self._card(repository))
        return folder

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> Directions:
        """Read directions from a folder, a Hub repository ("owner/repo", "owner/repo@revision"), or by name.

        Raises:
            genaug.AssetError: they are not available.
            ValueError: the file has no directions.
        """
        from genaug.assets import asset_path

        return cls.load(asset_path(name))

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
            files = sorted(path.name for path in self.save_pretrained(folder, repository).iterdir())
            return upload(repository, Path(folder), files, message="Upload directions of genaug", private=private)

    def _card(self, repository: str) -> str:
        ratio = self.explained_variance_ratio
        explained = "not stated" if ratio is None else f"{100 * float(ratio.sum()):.1f}% of the layer's variance"
        return (
            "---\nlibrary_name: genaug\ntags:\n- genaug\n- directions\n---\n\n# Principal directions of a generator\n\n"
            f"| | |\n|---|---|\n| directions | {len(self)} |\n| noise | {self.vectors.shape[1]} numbers |\n"
            f"| layer | {self.layer or 'the noise itself'} |\n| explained | {explained} |\n\n## Use\n\n"
            "```bash\npip install genaug\n```\n\n```python\n"
            "from genaug import Directions, GenerativeInterventionDataset\n\n"
            f'directions = Directions.from_pretrained("{repository}")\n'
            "interventions = GenerativeInterventionDataset(\n"
            '    "biggan-deep-256",  # or whichever generator they are of\n'
            "    length=50_000,\n    directions=directions,\n)\n```\n"
        )

    def check(self, generator: nn.Module, layer: str | None = None) -> None:
        """Raise ValueError if these directions belong to another generator, or cannot steer the output of `layer`."""
        network: Any = generator
        if layer is None and (self.vectors is None or not has_latent(generator)):
            raise ValueError(
                f"{type(generator).__name__} cannot be moved along directions of its noise, which is no vector or too "
                'large for least squares: use mode="activation" with the layer that the directions were fitted on'
            )
        if self.vectors is not None and self.vectors.shape[1] != network.z_dim:
            raise ValueError(
                f"directions are of another generator: of latent size {self.vectors.shape[1]}, "
                f"but {type(generator).__name__} has z_dim {network.z_dim}"
            )
        if self.centre is not None and len(self.centre) not in (1, network.num_classes):
            raise ValueError(
                f"directions are of another generator: of {len(self.centre)} classes, "
                f"but {type(generator).__name__} has {network.num_classes}"
            )
        if layer is not None:
            if self.components is None:
                raise ValueError('mode="activation" needs directions with components: those of fit_directions')
            if self.layer not in (None, layer):
                raise ValueError(f"layer is {layer!r}, but the directions are of layer {self.layer!r}")
            shape = fixed_output(generator, layer).shape
            if shape != self.components.shape[1:]:
                raise ValueError(
                    f"directions are of another generator: of a layer with outputs {tuple(self.components.shape[1:])}, "
                    f"but {layer!r} of {type(generator).__name__} has {tuple(shape)}"
                )
        if self.layer is None or self.probe is None:
            return
        found = fingerprint(generator, self.layer)
        # half precision differs by less than a hundredth; another network, or one trained again, differs far more
        if found.shape != self.probe.shape or (found - self.probe).norm() > 0.1 * self.probe.norm():
            raise ValueError(
                f"directions are of another generator: layer {self.layer!r} of this {type(generator).__name__} "
                "does not return what it returned when they were fitted"
            )


def _finite(name: str, value: Any, unknown: bool = False) -> Any:
    """Return a copy of the value as a float32 tensor on the CPU, or None for None.

    Raise ValueError for NaN or infinity. If `unknown`, rows may be NaN as a whole, but not all of them.
    """
    if value is None:
        return None
    try:
        tensor = torch.as_tensor(value).detach().to("cpu", torch.float32, copy=True)
    except (TypeError, ValueError, RuntimeError):  # torch raises these for a dict, strings or a ragged list
        raise TypeError(f"{name} of directions must be an array of numbers, got {value!r:.80}") from None
    known = tensor
    if unknown and tensor.ndim == 2:
        known = tensor[~tensor.isnan().all(1)]
    if not known.isfinite().all() or (unknown and not len(known)):
        raise ValueError(f"{name} of directions must be finite")
    return tensor


def read_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt", device=device) as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # a damaged header raises any of a dozen error types
        raise ValueError(f"{path} is damaged or no safetensors file: {one_line(error)}") from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    tensors, metadata = read_tensors(path)
    kind, version = metadata.get("kind"), metadata.get("format_version")
    if kind != "directions" or version != FORMAT or not {"vectors", "components"} & set(tensors):
        raise ValueError(f"{path} holds no directions: its metadata say kind {kind!r}, format version {version!r}")
    if DIGEST in metadata and metadata[DIGEST] != digest(tensors):
        raise ValueError(f"{path} is damaged: its tensors are not those that it was written with")
    return {**tensors, "layer": metadata.get("layer")}


def fixed_output(generator: Any, layer: str) -> Tensor:
    """Return the output of a layer for a fixed noise and the first class, (...)."""
    device = generator_device(generator)
    zero = torch.zeros(1, dtype=torch.int64)
    # the same probe for every latent, whatever noise is declared, because files store the outputs for it
    if has_latent(generator):
        probe = truncated_normal(0, zero, generator.z_dim, "probe")
    else:
        probe = noise_of(generator, 0, zero, 1.0, "probe")
    probe, zero = probe.to(device), zero.to(device)
    with evaluating(generator):
        output = layer_output(generator, layer, probe, zero, 1.0)[0]
        if not hasattr(generator, "activation"):
            # run the whole forward pass, which raises an error if the layer runs more than once
            with torch.no_grad():
                steer(generator, layer, lambda h, _: h, probe, zero, 1.0)
    if not output.isfinite().all():
        raise ValueError(f"layer {layer!r} returns NaN or infinity: are the generator's weights finite?")
    return output


def fingerprint(generator: Any, layer: str) -> Tensor:
    """Return 64 evenly spaced entries of `fixed_output`, or all if there are fewer."""
    output = fixed_output(generator, layer).flatten()
    return output[torch.linspace(0, len(output) - 1, min(64, len(output))).long()].float().cpu()
