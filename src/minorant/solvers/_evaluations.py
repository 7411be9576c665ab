"""What noisy evaluations of an objective say: how high it is, and whether it still rises."""

from __future__ import annotations

import numpy as np

from minorant.result import Estimate


def rising(history: list[np.ndarray], accuracy: float) -> bool:
    """Whether the last quarter of a stage lies above the quarter before it, by its own noise."""
    quarter = max(2, len(history) // 4)
    if len(history) < 2 * quarter + 1:
        return True
    late, early = history[-quarter:], history[-2 * quarter : -quarter]
    late, early = np.concatenate(late), np.concatenate(early)
    if len(late) == 0 or len(early) == 0:
        return False
    gain = late.mean() - early.mean()
    return bool(gain > max(0.1 * accuracy, _standard_error(late, early)))


def _standard_error(late: np.ndarray, early: np.ndarray) -> float:
    """Of the difference of two means; of batch means, since neighbouring steps are alike."""
    variance = 0.0
    for values in (late, early):
        batches = [part.mean() for part in np.array_split(values, 10) if len(part)]
        variance += np.var(batches) / len(batches)
    return float(np.sqrt(variance))


def score(values: np.ndarray) -> tuple[int, float]:
    """What is finite on more draws comes first, then what is higher."""
    finite = values[np.isfinite(values)]
    return len(finite), float(finite.mean()) if len(finite) else -np.inf


def estimate(values: np.ndarray) -> Estimate:
    """The mean of evaluations; one that is not finite leaves no bound at all."""
    if not np.isfinite(values).all():
        return Estimate(-np.inf, np.inf)
    error = values.std() / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), float(error))
