"""What a fit says about rows: posterior, log p(x), the gap of any q, missing cells, new rows."""

from minorant.evidence.completion import impute, sample
from minorant.evidence.decomposition import evidence
from minorant.evidence.scoring import labels, log_evidence, posterior

__all__ = ["evidence", "impute", "labels", "log_evidence", "posterior", "sample"]
