"""Interventions as torchvision v2 transforms: what changes an image on its way into a batch."""
