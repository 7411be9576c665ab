"""What a fit says about rows and parameters: posterior, log p(x), gaps, errors, new rows."""

from minorant.evidence.completion import impute, sample
from minorant.evidence.decomposition import evidence
from minorant.evidence.scoring import labels, log_evidence, posterior
from minorant.evidence.sequences import (
    StateForecast,
    filtered,
    forecast,
    impossible,
    log_joint,
    path,
)
from minorant.evidence.uncertainty import standard_errors

__all__ = [
    "StateForecast",
    "evidence",
    "filtered",
    "forecast",
    "impossible",
    "impute",
    "labels",
    "log_evidence",
    "log_joint",
    "path",
    "posterior",
    "sample",
    "standard_errors",
]
