r"""Which summaries of q are off, and by how much: short chains of the posterior from q's draws.

Every draw of q starts a Markov chain that leaves the posterior as it is. Where q is the posterior
nothing moves; where a mean or a spread of q is wrong the chains move it towards the truth, and how
far they have come is a lower estimate of how wrong it was.

.. math:: \delta_j = \frac{\bar v_j^{(T)} - \bar v_j^{(0)}}{\mathrm{sd}_j^{(T)}}, \quad
          \lambda_j = \log \frac{\mathrm{sd}_j^{(T)}}{\mathrm{sd}_j^{(0)}}

Wang, Kasprzak & Huggins (2023), "A targeted accuracy diagnostic for variational approximations",
section 3 (386 chains see a mean off by 0.1 sd and a log variance off by 0.15).
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant.evidence.clock import Clock
from minorant.evidence.course import Course
from minorant.evidence.schedule import first_length, resting, tuned
from minorant.result import Estimate

_CHAINS = 512
_TUNING, _MOVES, _TRAVEL = 6, 4, 50.0
_MEAN, _LOG_SD = 0.1, 0.075
_WIDE = 3.5
_STILL = 0.5
_SHOWN = 6


class Summary(NamedTuple):
    """One number of the posterior: what q says, and where chains moved it.

    Attributes:
        name: of the unknown, with its index.
        mean: of q.
        sd: of q.
        shift: by how many standard deviations chains moved the mean.
        log_ratio: by how much they moved the logarithm of the standard deviation.
        left: the correlation of the chains' ends with their starts: near 1, they have hardly moved,
            and what they say is too little.
        is_off: whether either is beyond its tolerance and 3.5 of its standard errors.
    """

    name: str
    mean: float
    sd: float
    shift: Estimate
    log_ratio: Estimate
    left: float
    is_off: bool

    def __str__(self) -> str:
        """One line; a star where q is off."""
        shift, ratio = self.shift, self.log_ratio
        return (
            f"{self.name:24s} {self.mean:12.5g} {self.sd:12.5g} "
            f"{shift.value:8.3f} ± {shift.standard_error:.3f} "
            f"{ratio.value:8.3f} ± {ratio.standard_error:.3f} {self.left:8.2f}"
            + (" *" if self.is_off else "")
        )


class Calibration(NamedTuple):
    """All numbers, and what is off, in a sentence."""

    rows: tuple[Summary, ...]
    sentence: str
    seconds: float

    def __getitem__(self, name: Any) -> Any:
        """The row of that name; by number, the field."""
        if isinstance(name, str):
            return next(row for row in self.rows if row.name == name)
        return tuple(self)[name]

    def __str__(self) -> str:
        """The table and the sentence."""
        head = f"{'':24s} {'mean of q':>12s} {'sd of q':>12s} {'mean moves':>16s} "
        head += f"{'log sd moves':>16s} {'memory':>8s}"
        return "\n".join([head, *map(str, self.rows), self.sentence])


def calibration(fit: Any, seed: int = 0) -> Calibration:
    """Which means and standard deviations of q the posterior's own chains move, and by how much.

    Args:
        fit: what ``minorant.fit(target)`` returned.
        seed: of all random numbers.

    Returns:
        A row for every number of every unknown, in the user's units; a star marks those off by more
        than 0.1 standard deviations in the mean or 7.5% in the standard deviation, beyond 3.5
        standard errors.

    Example:
        >>> import numpy as np, minorant
        >>> from jax.scipy import stats
        >>> normal = lambda x: stats.norm.logpdf(x, 2.0, 3.0)
        >>> fit = minorant.fit(minorant.Target(normal, x=minorant.unknowns.real()))
        >>> fit.calibration()["x"].is_off
        False

    Not for: modes that q misses, which short chains do not reach; ``fit.evidence()`` looks for
    those. What is said is of q itself: where importance weights can be relied on, the fit's
    summaries use them and are better.
    """
    _config.enable_compilation_cache()
    began = time.perf_counter()
    with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
        course = Course.along(fit.target, fit.posterior.member, seed, Clock(np.inf), _CHAINS)
        start = course.starts()
        end = _walked(course, start)
    before, after = (_numbers(fit, course.points(places)) for places in (start, end))
    rows = tuple(_row(name, before[name], after[name]) for name in before)
    return Calibration(rows, _sentence(rows), time.perf_counter() - began)


def _walked(course: Course, start: np.ndarray) -> np.ndarray:
    """Moves at b = 1, their length tuned on chains that are then thrown away."""
    run, p = course.runner(), course.target.size
    length, tried = first_length(p), start
    for _ in range(_TUNING):
        passed = run(tried, resting(length, _MOVES))
        tried, length = passed, tuned(length, passed.accepted[:_MOVES].mean())
    # As many leapfrog steps as p^(1/4) asks for, and a move takes about 1.5 / length of them.
    moves = int(np.clip(_TRAVEL * p**0.25 * length / 1.5, 8, 200))
    return run(start, resting(length, moves)).places


def _numbers(fit: Any, points: np.ndarray) -> dict[str, Float[np.ndarray, " c"]]:
    """Every number of every unknown by name, at each draw."""
    found = {}
    for name, values in fit.posterior._values(points).items():
        flat = np.asarray(values, float).reshape(len(values), -1)
        for column, index in enumerate(np.ndindex(values.shape[1:])):
            where = f"[{', '.join(map(str, index))}]" if index else ""
            found[name + where] = flat[:, column]
    return found


def _row(name: str, before: Float[np.ndarray, " c"], after: Float[np.ndarray, " c"]) -> Summary:
    """Paired: a chain's start and end depend on each other, which makes errors smaller."""
    sd = max(float(after.std(ddof=1)), np.finfo(float).tiny)
    moved = (after - before) / sd
    shift = Estimate(float(moved.mean()), float(moved.std(ddof=1) / np.sqrt(len(moved))))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.log(after.std(ddof=1) / before.std(ddof=1)))
        left = float(np.corrcoef(before, after)[0, 1])
    parts = [
        ((x - x.mean()) / x.std()) ** 2 if x.std() > 0 else np.ones_like(x) for x in (after, before)
    ]
    spread = 0.5 * (parts[0] - parts[1])
    log_ratio = Estimate(ratio, float(spread.std(ddof=1) / np.sqrt(len(spread))))
    is_off = _beyond(shift, _MEAN) or _beyond(log_ratio, _LOG_SD)
    return Summary(
        name, float(before.mean()), float(before.std(ddof=1)), shift, log_ratio, left, is_off
    )


def _beyond(moved: Estimate, tolerance: float) -> bool:
    size = abs(moved.value)
    return bool(size > tolerance and size > _WIDE * moved.standard_error)


def _sentence(rows: tuple[Summary, ...]) -> str:
    off = sorted((row for row in rows if row.is_off), key=lambda row: -_size(row))
    said = "No mean or standard deviation of q moves beyond its tolerance."
    if off:
        listed = "; ".join(_told(row) for row in off[:_SHOWN])
        more = f"; and {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
        said = f"* q is off in {len(off)} of {len(rows)} numbers: {listed}{more}."
    still = [row.name for row in rows if row.left > _STILL]
    if still:
        shown = ", ".join(still[:_SHOWN]) + (", ..." if len(still) > _SHOWN else "")
        said += f" Chains have hardly moved in {shown}: there q may be off by more."
    return said


def _size(row: Summary) -> float:
    return max(abs(row.shift.value) / _MEAN, abs(row.log_ratio.value) / _LOG_SD)


def _told(row: Summary) -> str:
    said = []
    if _beyond(row.shift, _MEAN):
        way = "high" if row.shift.value < 0 else "low"
        said.append(f"mean of {row.name} too {way} by {abs(row.shift.value):.2f} sd")
    if _beyond(row.log_ratio, _LOG_SD):
        way = "small" if row.log_ratio.value > 0 else "large"
        said.append(f"sd of {row.name} too {way} by {np.expm1(abs(row.log_ratio.value)):.0%}")
    return ", ".join(said)
