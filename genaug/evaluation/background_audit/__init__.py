"""Audit whether a classifier relies on the background, with a bank of cutouts of a user's photographs."""

from genaug.evaluation.background_audit.comparison import Comparison, compare
from genaug.evaluation.background_audit.run import Audit, audit

__all__ = ["Audit", "Comparison", "audit", "compare"]
