"""Photographs -> masks -> cutouts -> a bank on disk."""
