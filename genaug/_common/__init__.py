"""Utilities that all packages share: argument checks, atomic files, progress, sheets, result files, video."""
