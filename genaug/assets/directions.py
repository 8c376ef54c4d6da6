"""Directions as a kind of asset, with the tensors that `genaug.Directions` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genaug.assets.registry import AssetError, Kind, Shapes, register

if TYPE_CHECKING:
    from torch import Tensor


def _directions(state: Mapping[str, Tensor]) -> Shapes:
    """Return the tensors of `genaug.Directions` by name. Only the vectors are required; components have any shape."""
    vectors = state.get("vectors")
    if vectors is None or vectors.ndim != 2 or not len(vectors):
        found = "none" if vectors is None else str(tuple(vectors.shape))
        raise AssetError(f"directions have vectors (k, z_dim), but here are {found}")
    k, given = len(vectors), {name: tuple(tensor.shape) for name, tensor in state.items()}
    shapes: Shapes = {
        "vectors": tuple(vectors.shape),
        **dict.fromkeys(("stdev", "explained_variance_ratio", "latent_stdev", "latent_centre"), (k,)),
        "components": (k, *given.get("components", ())[1:]),
        "centre": (*given.get("centre", ())[:1], k),
        "probe": given.get("probe", ())[:1],
    }
    return {name: shape for name, shape in shapes.items() if name in state}


KIND = register(
    Kind(
        name="directions",
        layout=_directions,
        example="""
            from genaug import GenerativeInterventionDataset

            interventions = GenerativeInterventionDataset(
                "biggan-deep-256",  # or whichever generator they are of
                length=50_000,
                directions="{file}",
            )
            image, label = interventions[0]
            """,
    )
)
