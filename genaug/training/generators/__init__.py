"""Trainers of generators, one file for each."""
