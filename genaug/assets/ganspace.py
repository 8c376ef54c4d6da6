"""Read GANSpace's files of principal directions without executing their content."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from genaug._common.files import one_line

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 4 << 30  # bytes after unpacking; a small compressed file could unpack to a huge size


def read_ganspace(path: Path) -> dict[str, Tensor]:
    """Return the content of a GANSpace `.npz` under the names of `genaug.Directions`.

    `vectors` is always there; the other tensors only if the file has them.

    Raises:
        ValueError: the file is damaged, has pickles in it, or is not a GANSpace file.
    """
    import numpy as np
    import torch
    import torch.nn.functional as F

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # zipfile does not check the number of entries, so it would miss a list that is damaged and ends early.
            with path.open("rb") as file:
                file.seek(-12, os.SEEK_END)
                count = int.from_bytes(file.read(2), "little")
            if count != len(entries):
                raise ValueError("its list of entries is damaged")
            if sum(entry.file_size for entry in entries) > _LARGEST:
                raise ValueError("it unfolds to more than 4 GiB")
            if damaged := archive.testzip():  # numpy would allocate an array before it notices wrong bytes
                raise ValueError(f"check sum of {damaged}")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name]).float() for name in stored.files}
        if "lat_comp" in arrays:
            # GANSpace's shapes include a batch of one: (k, 1, z_dim), (k, 1, ...), and (1, ...) for the means
            vectors = F.normalize(arrays["lat_comp"].flatten(1))
            found = {"vectors": vectors}
            for name, theirs in (
                ("stdev", "act_stdev"),
                ("explained_variance_ratio", "var_ratio"),
                ("latent_stdev", "lat_stdev"),
            ):
                if theirs in arrays:
                    found[name] = arrays[theirs]
            if "lat_mean" in arrays:
                found["latent_centre"] = vectors @ arrays["lat_mean"].flatten()
            if "act_comp" in arrays and "act_mean" in arrays:
                found["components"] = arrays["act_comp"].squeeze(1)
                found["centre"] = (arrays["act_comp"].flatten(1) @ arrays["act_mean"].flatten())[None]
            return found
    except Exception as error:  # numpy, torch and zipfile raise many types of errors for damaged or other files
        raise ValueError(f"{path} is damaged or no file of GANSpace: {one_line(error)}") from error
    raise ValueError(f"{path} is not a GANSpace file: it has no lat_comp")
