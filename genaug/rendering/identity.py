"""Tell apart sources whose images differ although their metadata agree, so that no set is made of two of them."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from genaug._common.files import checksum, digest
from genaug.assets import asset_path
from genaug.assets.cache import sha256
from genaug.assets.folders import generator_checksum
from genaug.datasets.counterfactual import CounterfactualDataset
from genaug.datasets.generated import GeneratedDataset
from genaug.datasets.generative_intervention import GenerativeInterventionDataset
from genaug.datasets.transferred import TransferredFolder
from genaug.evaluation.scoring import weights_digest
from genaug.photographs.bank import PhotographBank
from genaug.photographs.format import BankFiles


def identity_of(source: Any) -> dict[str, Any]:
    """Return what a source makes its images from and its metadata do not say: checksums and settings, for JSON.

    Of a dataset outside this package, only its `generator` is known, if that is a module.
    """
    if isinstance(source, TransferredFolder):
        return _identity_of_transfer(source)
    found: dict[str, Any] = {}
    generator = getattr(source, "generator", None)
    if isinstance(generator, PhotographBank):
        found["cutouts"] = generator.files.fingerprint(generator.order)
        found |= {"placement": generator.placement, "blend": generator.blend}
        found["backgrounds"] = checksum(list(map(os.fspath, generator.further)))
    elif isinstance(source, GeneratedDataset) and source._by_name:
        # of the files, because weights in memory can be arranged for the device
        found["weights"] = generator_checksum(source.generator_name)
    elif isinstance(generator, nn.Module):
        found["weights"] = weights_digest(generator)
    if isinstance(photographs := getattr(generator, "bank", None), BankFiles):  # of a diffusion pipeline
        found["cutouts"] = photographs.fingerprint()
    if isinstance(source, (CounterfactualDataset, GenerativeInterventionDataset)):
        found["targets"] = source.targets
    if isinstance(source, GenerativeInterventionDataset):
        if source.directions is not None and source._source != "exact":
            found["directions"] = digest({k: v for k, v in vars(source.directions).items() if isinstance(v, Tensor)})
        if isinstance(source.recognized_by, nn.Module):
            found["recognized_by"] = weights_digest(source.recognized_by)
    return found


def _identity_of_transfer(source: TransferredFolder) -> dict[str, Any]:
    transfer = source.transfer
    networks = [transfer.network, *([transfer.decoder] if transfer.method == "adain" else [])]
    return {
        "photographs": checksum([(path.as_posix(), label) for path, label in source.files]),
        "networks": [sha256(asset_path(name)) for name in networks],
        **{name: getattr(transfer, name) for name in ("alpha", "style_weight", "content_weight")},
        **identity_of(transfer.styles),
    }
