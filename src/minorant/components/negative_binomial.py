r"""The negative binomial component: counts that vary more than Poisson ones.

With mean m and size s (variance ``m + m^2 / s``),

    log p(x) = -s log(1 + m/s) + sum_(0 <= i < x) log [ (s + i) m / ((1 + i) (s + m)) ],

which has no large terms to cancel, up to the Poisson limit ``s = infinity``. It is tabulated up to
a length T and looked up; the statistics are counts of rows by value: sums that add, and from which
the best size follows exactly. Rows beyond T bring ``sum_(T <= i < x) log(s + i)``, convex in
``log(s + T)``, by its tangent there: a lower bound that touches at the size the pass was made
with, so that the M-step never lowers the expected log density, and is exact when no count
exceeds T.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import constant, given, keep, positive
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base
from minorant.components import exponential_family as family
from minorant.components.priors import LogDensity

_LENGTHS = (16, 64, 256, 1024)
_MOST_STEPS = 60
_LEAST_SIZE = 1e-6
_LARGEST_SIZE = 1e6


class Prepared(NamedTuple):
    """Size, mean, and ``log p(x)`` for x = 0 .. T, then 0 for missing cells."""

    size: Float[Array, "k d"]
    mean: Float[Array, "k d"]
    table: Float[Array, "k d length2"]


class CountSums(NamedTuple):
    """Weighted sums: rows, counts, rows above each i < T, and what the tangent beyond T leaves out.

    ``slack`` sums ``sum_(T <= i < x) (i - T) / (s0 + i)``, with s0 the size of the pass.
    """

    count: Float[Array, "k d"]
    total: Float[Array, "k d"]
    above: Float[Array, "k d length"]
    slack: Float[Array, "k d"]


class Search(NamedTuple):
    """Where the best ``log s`` is sought: the point, its bracket, and the last move."""

    point: Float[Array, "k d"]
    low: Float[Array, "k d"]
    high: Float[Array, "k d"]
    moved: Float[Array, "k d"]
    n_steps: Int[Array, ""]


class NegativeBinomial(family.IndependentColumns):
    r"""k sets of means and sizes for columns of counts.

    .. math:: p(x \mid k) = \prod_j \frac{\Gamma(x_j + s)}{\Gamma(s)\, x_j!}
              \Big(\frac{s}{s + m}\Big)^{s} \Big(\frac{m}{s + m}\Big)^{x_j},
              \qquad m = m_{kj},\; s = s_{kj}

    M-step: the weighted mean, and the size that maximises given it, by Newton steps in ``log s``
    inside a shrinking bracket; a step that would lower the expected log density is not taken.
    Counts that vary no more than Poisson ones drive the size to ``largest_size``, where the
    density is Poisson's to about one part in 1e6.

    Args:
        mean: (k, d), expected counts; None to be learned.
        size: (k, d), small for much overdispersion; None to be learned.
        largest_size: (d,) or a number; None: 1e6, times the column's mean where that exceeds 1.
        prior: any :class:`LogDensity`, or None.

    Example:
        >>> from minorant.components import NegativeBinomial
        >>> NegativeBinomial().prior is None
        True

    Lawless (1987), "Negative binomial and mixed Poisson regression", section 2.
    Not for: counts with a known upper limit.
    """

    mean: Float[Array, "k d"] | None = positive(default=None)
    size: Float[Array, "k d"] | None = positive(default=None)
    largest_size: Float[Array, " d"] | None = constant(default=None)
    prior: LogDensity | None = constant(default=None)
    n_tabulated: int = eqx.field(static=True, default=256, kw_only=True)

    def prepare(self) -> Prepared:
        """The table of log probabilities."""
        size = jnp.asarray(given(self.size))
        mean = jnp.maximum(given(self.mean), family.LEAST)
        log_zero = -size * jnp.log1p(mean / size)
        steps = jnp.arange(self.n_tabulated, dtype=size.dtype)
        ratio = (size[..., None] + steps) / (1.0 + steps) * (mean / (size + mean))[..., None]
        logs = jnp.cumsum(jnp.concatenate([log_zero[..., None], jnp.log(ratio)], axis=-1), axis=-1)
        table = jnp.concatenate([logs, jnp.zeros_like(logs[..., :1])], axis=-1)
        return Prepared(size, mean, table)

    def log_prob(self, rows: Rows, prepared: Prepared) -> Float[Array, "k n"]:
        """Looked up, and the rare rows beyond the table by Stirling's series."""
        length, columns = self.n_tabulated, np.arange(rows.values.shape[1])
        scores = prepared.table[:, columns, _slots(rows, length)].sum(2)

        def beyond() -> Array:
            return scores + family.masked(_tail(rows, prepared, length), rows).sum(2)

        return jax.lax.cond(jnp.any(rows.values > length), beyond, lambda: scores)

    def statistics(
        self, rows: Rows, responsibilities: Float[Array, "k n"], prepared: Prepared | None
    ) -> CountSums:
        """Counts of rows by value, and the tangent beyond the table."""
        count = family.cell_counts(rows, responsibilities)
        total = responsibilities @ family.masked(rows.values, rows)
        size, length = jnp.ones_like(count) if prepared is None else prepared.size, self.n_tabulated

        def beyond() -> Array:
            slack = family.masked(_slack(rows, size, length), rows)
            return jnp.einsum("kn,knd->kd", responsibilities, slack)

        any_beyond = jnp.any(rows.values > length)
        slack = jax.lax.cond(any_beyond, beyond, lambda: jnp.zeros_like(count))
        return CountSums(count, total, _rows_above(rows, responsibilities, length), slack)

    def maximise(self, statistics: CountSums, fixed: PyTree | None) -> Self:
        """The mean, then the size given it."""
        count = statistics.count
        mean = jnp.maximum(statistics.total / base.safe_count(count), family.LEAST)
        mean = family.keep_unsupported(count, self.mean, mean)
        mean = keep(base.of(fixed, "mean"), self.mean, mean)
        size = family.keep_unsupported(count, self.size, self._best_size(statistics, mean))
        size = keep(base.of(fixed, "size"), self.size, size)
        closed = family.replaced(self, mean=mean, size=size)
        return family.finished(self, closed, statistics, fixed)

    def expected_log_prob(self, statistics: CountSums) -> Float[Array, " k"]:
        """``sum_i r_ik log p(x_i | k)`` up to a constant; beyond the table, its tangent."""
        mean = jnp.maximum(given(self.mean), family.LEAST)
        return _expected(statistics, mean, jnp.asarray(given(self.size))).sum(1)

    def log_prior(self) -> Float[Array, ""]:
        """The prior's log density."""
        return family.log_prior(self, None)

    def cell_mean(self) -> Float[Array, "k d"]:
        """``m``."""
        return given(self.mean)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Poisson counts at gamma rates."""
        rate_key, count_key = jax.random.split(key)
        size, mean = (
            jnp.asarray(given(self.size))[labels],
            jnp.asarray(given(self.mean))[labels],
        )
        rate = jax.random.gamma(rate_key, size) * (mean / size)
        return jax.random.poisson(count_key, rate).astype(rate.dtype)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With the largest size, and a table long enough for the counts (at most 1024)."""
        largest = self.largest_size
        if largest is None:
            largest = _LARGEST_SIZE * np.maximum(1.0, summary.mean)
        largest = np.broadcast_to(np.asarray(largest, dtype=float), (summary.n_columns,)).copy()
        most = summary.maximum.max()
        length = next((length for length in _LENGTHS if length >= most), _LENGTHS[-1])
        return dataclasses.replace(self, largest_size=largest, n_tabulated=length)

    def standardiser(self, summary: Summary) -> Affine:
        """The identity: counts have no other units."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: the units are the identity."""
        return self

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """``2 sqrt(x)``, standardised."""
        return family.standardised(2.0 * np.sqrt(values))

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Only 0, 1, 2, ... are in the support."""
        must = "must hold counts 0, 1, 2, ... for the NegativeBinomial component"
        family.reject_counts(values, names, must)

    def collapsed(self) -> np.ndarray:
        """Zeros: no density is infinite, and the Poisson limit is a proper one."""
        return np.zeros(len(given(self.mean)))

    def projected(self) -> Self:
        """With means and sizes inside their limits."""
        mean = jnp.maximum(given(self.mean), family.LEAST)
        return family.replaced(self, mean=mean, size=self._inside(jnp.asarray(given(self.size))))

    def rounding(self, prepared: Prepared) -> Array:
        """The sum over columns of ``-log p(0)``: what a score climbs back from, term by term."""
        return 1.0 + (-prepared.table[..., 0]).sum(1).max()

    def _inside(self, size: Array) -> Array:
        return jnp.clip(size, _LEAST_SIZE, self._limit(size))

    def _limit(self, like: Array) -> Array:
        largest = _LARGEST_SIZE if self.largest_size is None else self.largest_size
        return jnp.broadcast_to(jnp.asarray(largest, like.dtype), like.shape)

    def _best_size(self, sums: CountSums, mean: Array) -> Array:
        """The maximising size at ``mean``; the old one if none beats it."""
        limit = self._limit(mean)
        start = _moment_size(sums, mean) if self.size is None else jnp.asarray(given(self.size))
        start = jnp.clip(start, _LEAST_SIZE, limit)
        size = _climbed(sums, mean, start, limit)
        for candidate in (limit, start):
            gain = _expected(sums, mean, candidate) - _expected(sums, mean, size)
            size = jnp.where(gain > _rounding(sums, mean), candidate, size)
        return size


def _rounding(sums: CountSums, mean: Array) -> Array:
    """Differences of :func:`_expected` that are rounding: its largest terms are ``x log m``."""
    return 8 * jnp.finfo(mean.dtype).eps * sums.total * (1.0 + jnp.abs(jnp.log(mean)))


def _expected(sums: CountSums, mean: Array, size: Array) -> Float[Array, "k d"]:
    """The expected log density cell by cell, without what depends on no parameter."""
    log_term = jnp.log1p(mean / size)
    length = sums.above.shape[-1]
    steps = jnp.arange(length, dtype=size.dtype) / size[..., None]
    rising = (sums.above * jnp.log1p(steps)).sum(-1)
    beyond = _beyond_mass(sums) * jnp.log1p(length / size) - sums.slack * jnp.log(size)
    rest = sums.total * (jnp.log(mean) - log_term) - sums.count * size * log_term
    return rest + rising + beyond


def _beyond_mass(sums: CountSums) -> Float[Array, "k d"]:
    """The tangent's weight on ``log(s + T)``."""
    return jnp.maximum(sums.total - sums.above.sum(-1) - sums.slack, 0.0) * (sums.slack > 0)


def _slope(sums: CountSums, mean: Array, size: Array) -> Float[Array, "k d"]:
    """The derivative of :func:`_expected` in ``log s``; terms do not cancel for large s."""
    length = sums.above.shape[-1]
    steps = jnp.arange(length, dtype=size.dtype)
    rising = (sums.above * (steps / (steps + size[..., None]))).sum(-1)
    beyond = _beyond_mass(sums) * (length / (length + size)) + sums.slack
    rest = mean * (sums.total - sums.count * mean) / (size + mean)
    return sums.count * size * _less_log1p(mean / size) + rest - rising - beyond


def _less_log1p(u: Array) -> Array:
    """``u - log(1 + u)``, by its series for small u."""
    small = jnp.minimum(u, 0.03)
    series = jnp.zeros_like(small)
    for power in range(11, 1, -1):
        series = (1.0 if power % 2 == 0 else -1.0) / power + small * series
    return jnp.where(u < 0.03, small * small * series, u - jnp.log1p(u))


def _climbed(sums: CountSums, mean: Array, start: Array, limit: Array) -> Float[Array, "k d"]:
    """Newton on the slope in ``log s``, bisecting where a step would leave the bracket."""

    def slope(log_size: Array) -> Array:
        return _slope(sums, mean, jnp.exp(log_size))

    def running(search: Search) -> Array:
        small = 8 * jnp.finfo(start.dtype).eps * (1.0 + jnp.abs(search.point))
        return (search.n_steps < _MOST_STEPS) & jnp.any(jnp.abs(search.moved) > small)

    def step(search: Search) -> Search:
        point = search.point
        value, curvature = jax.jvp(slope, (point,), (jnp.ones_like(point),))
        low = jnp.where(value > 0, point, search.low)
        high = jnp.where(value > 0, search.high, point)
        newton = point - value / jnp.where(curvature < 0, curvature, -jnp.inf)
        usable = (curvature < 0) & (newton > low) & (newton < high)
        moved = jnp.where(usable, newton, 0.5 * (low + high)) - point
        return Search(point + moved, low, high, moved, search.n_steps + 1)

    low, high = jnp.full_like(start, np.log(_LEAST_SIZE)), jnp.log(limit)
    first = Search(jnp.log(start), low, high, jnp.ones_like(start), jnp.asarray(0, jnp.int32))
    return jnp.exp(jax.lax.while_loop(running, step, first).point)


def _moment_size(sums: CountSums, mean: Array) -> Float[Array, "k d"]:
    """``m^2 / (variance - m)``, counts cut at the table's end."""
    steps = jnp.arange(sums.above.shape[-1], dtype=mean.dtype)
    square = (sums.above * (2.0 * steps + 1.0)).sum(-1) / base.safe_count(sums.count)
    return mean**2 / jnp.maximum(square - mean**2 - mean, 1e-3 * (mean**2 + mean))


def _slots(rows: Rows, length: int) -> Int[Array, "n d"]:
    """Where each cell looks: its count, T beyond it, T + 1 where missing."""
    slot = jnp.clip(rows.values, 0, length).astype(jnp.int32)
    return slot if rows.observed is None else jnp.where(rows.observed, slot, length + 1)


def _rows_above(rows: Rows, responsibilities: Array, length: int) -> Float[Array, "k d length"]:
    """``sum_n r_kn 1[x_nj > i]`` for i < T: rows counted by value, then summed from above."""
    n, d = rows.values.shape
    added = jnp.broadcast_to(responsibilities.T[:, None, :], (n, d, len(responsibilities)))
    zero = jnp.zeros((d, length + 2, len(responsibilities)), added.dtype)
    histogram = zero.at[np.arange(d), _slots(rows, length)].add(added)[:, 1:-1]
    return jnp.moveaxis(jnp.cumsum(histogram[:, ::-1], axis=1)[:, ::-1], 2, 0)


def _tail(rows: Rows, prepared: Prepared, length: int) -> Float[Array, "k n d"]:
    """``log p(x) - log p(T)`` for x above T, else 0, by Stirling's series.

    Written in differences that are small where sizes are: counts of thousands would cancel.
    """
    away = jnp.maximum(rows.values - length, 0.0)
    size, mean = prepared.size[:, None], prepared.mean[:, None]
    after = length + 1.0 + away
    share = 1.0 / (1.0 + mean / size)
    per_step = jnp.log1p((share * (mean - after) - (1.0 - share)) / after)
    first = length + size
    narrowing = jnp.log1p(-(away / after) * ((size - 1.0) / first))
    stretched = (size - 1.0) * jnp.log1p(away / first) + (length + 0.5) * narrowing
    rest = _stirling(first + away) - _stirling(first) - _stirling(after) + _stirling(length + 1.0)
    return away * per_step + stretched + rest


def _slack(rows: Rows, size: Array, length: int) -> Float[Array, "k n d"]:
    """``sum_(T <= i < x) (i - T) / (s + i)``: the counts beyond T less the tangent's weight."""
    away = jnp.maximum(rows.values - length, 0.0)
    first = length + size[:, None]
    last = first + away
    reciprocals = jnp.log1p(away / first) + 0.5 * away / (first * last)
    reciprocals = reciprocals + _less_digamma(first) - _less_digamma(last)
    return jnp.maximum(away - first * reciprocals, 0.0)


def _stirling(z: Any) -> Any:
    """``log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2``, for z of at least 16."""
    u = 1.0 / (z * z)
    return (1 / 12 - u * (1 / 360 - u * (1 / 1260 - u * (1 / 1680 - u / 1188)))) / z


def _less_digamma(z: Array) -> Array:
    """``log z - 1/(2 z) - digamma(z)``, for z of at least 16."""
    u = 1.0 / (z * z)
    return u * (1 / 12 - u * (1 / 120 - u * (1 / 252 - u * (1 / 240 - u / 132))))
