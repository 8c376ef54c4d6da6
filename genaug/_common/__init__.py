"""Shared plumbing of all rooms: argument checks, atomic files, progress, sheets, records of results, video."""
