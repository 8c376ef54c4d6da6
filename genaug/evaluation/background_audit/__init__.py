"""Does a classifier rely on the background? An audit with a bank of cutouts of a user's own photographs."""

from genaug.evaluation.background_audit.comparison import Comparison, compare
from genaug.evaluation.background_audit.run import Audit, audit

__all__ = ["Audit", "Comparison", "audit", "compare"]
