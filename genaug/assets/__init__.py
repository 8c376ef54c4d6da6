"""Weights by name: the one part that knows files, checksums and where each came from."""

from genaug.assets.registry import ASSETS, Asset, AssetError
from genaug.assets.store import asset_path, load_asset, save_asset

__all__ = ["ASSETS", "Asset", "AssetError", "asset_path", "load_asset", "save_asset"]
