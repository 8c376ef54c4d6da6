"""Interventions as pure functions of tensors: every random draw is an argument, or a function of seed and index."""
