"""What is measured of a trained model: one file a measure."""

from genaug.evaluation.accuracy import accuracy

__all__ = ["accuracy"]
