"""What a fit says about rows and parameters: posterior, log p(x), gaps, errors, new rows.

Names are imported when first used: an exact fit's evidence needs nothing of annealing.
"""

from minorant._lazy import lazily

_NAMES = {
    "StateForecast": "sequences",
    "calibration": "calibrating",
    "certified": "annealing",
    "evidence": "decomposition",
    "filtered": "sequences",
    "forecast": "sequences",
    "impossible": "sequences",
    "impute": "completion",
    "labels": "scoring",
    "log_evidence": "scoring",
    "log_joint": "sequences",
    "path": "sequences",
    "posterior": "scoring",
    "sample": "completion",
    "standard_errors": "uncertainty",
    "target_evidence": "annealing",
    "twins": "simulated_twins",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
