"""Trainers of generators, one file per generator."""
