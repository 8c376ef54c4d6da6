"""Model weights by name: files, checksums and sources."""

from genaug.assets.registry import ASSETS, KINDS, Asset, AssetError, File, Kind, register
from genaug.assets.store import asset_path, load_asset, save_asset

__all__ = [
    "ASSETS",
    "KINDS",
    "Asset",
    "AssetError",
    "File",
    "Kind",
    "asset_path",
    "load_asset",
    "register",
    "save_asset",
]
