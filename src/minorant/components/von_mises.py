r"""The von Mises component: angles in radians, columns independent given the component.

M-step (Mardia & Jupp, 2000, "Directional statistics", section 5.3): the direction is the angle of
the weighted resultant, the concentration solves ``A(kappa) = I1 / I0 = R``, the mean resultant
length, started as in Banerjee, Dhillon, Ghosh & Sra (2005), "Clustering on the unit hypersphere
using von Mises-Fisher distributions", equation 4.4.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Float, Int

from minorant import _linalg
from minorant._parameters import constant, given, keep, positive, real
from minorant._types import Affine, Array, Key, Rows, Summary
from minorant.components import autodiff, base
from minorant.components.priors import LogDensity

LEAST_CONCENTRATION = 1e-8
_TURN = 2.0 * np.pi
_REJECTIONS = 64


class Resultant(NamedTuple):
    """Weighted counts of observed cells, and sums of cosines and sines."""

    count: Float[Array, "k d"]
    cosine: Float[Array, "k d"]
    sine: Float[Array, "k d"]


class VonMises(base.AbstractComponent):
    r"""k densities of angles, column by column.

    .. math:: \log p(x) = \kappa \cos(x - \mu) - \log(2 \pi I_0(\kappa))

    Args:
        direction: (k, d) mean directions mu, in radians; None to be learned.
        concentration: (k, d) kappa, at least 0; None to be learned. The standard deviation is about
            ``kappa^(-1/2)`` radians where kappa is large.
        cap: concentrations stay at or below it, so that the bound stays finite on tied angles.
        prior: a :class:`LogDensity`, or None.

    Example:
        >>> from minorant.components import VonMises
        >>> VonMises().direction is None
        True

    Not for: angles in degrees (convert), or axes without a sense (double them first).
    """

    direction: Float[Array, "k d"] | None = real(default=None)
    concentration: Float[Array, "k d"] | None = positive(default=None)
    cap: Float[Array, ""] | float = constant(default=1e6)
    prior: LogDensity | None = constant(default=None)

    def prepare(self) -> Float[Array, " k d"]:
        """``log(2 pi I0(kappa)) - kappa``, cell by cell."""
        return _linalg.LOG_TWO_PI + jnp.log(i0e(given(self.concentration)))

    def log_prob(self, rows: Rows, prepared: Array) -> Float[Array, "k n"]:
        """``kappa (cos(x - mu) - 1)`` less the normaliser, over the observed cells."""
        half = 0.5 * (rows.values[None] - given(self.direction)[:, None, :])
        kappa = given(self.concentration)[:, None, :]
        cells = -2.0 * kappa * jnp.sin(half) ** 2 - prepared[:, None, :]
        if rows.observed is not None:
            cells = jnp.where(rows.observed, cells, 0.0)
        return cells.sum(2)

    def statistics(self, rows: Rows, responsibilities: Array, prepared: Array | None) -> Resultant:
        """Sums of cosines and sines of the observed cells."""
        seen = True if rows.observed is None else rows.observed
        mask = jnp.broadcast_to(seen, rows.values.shape).astype(rows.values.dtype)
        r = responsibilities
        return Resultant(
            r @ mask, r @ (mask * jnp.cos(rows.values)), r @ (mask * jnp.sin(rows.values))
        )

    def maximise(self, statistics: Resultant, fixed: Any) -> Self:
        """The resultants' angles, and the concentrations that match their lengths."""
        direction = keep(base.of(fixed, "direction"), self.direction, self._directions(statistics))
        along = statistics.cosine * jnp.cos(direction) + statistics.sine * jnp.sin(direction)
        kappa = matched_concentration(along / base.safe_count(statistics.count))
        kappa = jnp.clip(kappa, LEAST_CONCENTRATION, self.cap)
        kappa = _keep_unseen(statistics.count, self.concentration, kappa)
        kappa = keep(base.of(fixed, "concentration"), self.concentration, kappa)
        closed = self._with(direction, kappa)
        if self.prior is None:
            return closed
        return autodiff.with_prior(self, closed, statistics, fixed)

    def expected_log_prob(self, statistics: Resultant) -> Float[Array, " k"]:
        """``kappa (C cos mu + S sin mu) - n log(2 pi I0)``, summed over columns."""
        along = statistics.cosine * jnp.cos(given(self.direction))
        along = along + statistics.sine * jnp.sin(given(self.direction))
        less = given(self.concentration) + self.prepare()
        return (given(self.concentration) * along - statistics.count * less).sum(1)

    def log_prior(self) -> Float[Array, ""]:
        """The prior's log density, or 0."""
        if self.prior is None:
            return jnp.zeros((), given(self.direction).dtype)
        return self.prior.log_density(self)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Angles within (-pi, pi]."""
        return draw_angles(key, given(self.direction)[labels], given(self.concentration)[labels])

    def conditional_mean(self, rows: Rows, prepared: Array) -> Float[Array, "k n d"]:
        """The mean direction in the missing cells."""
        filled = jnp.broadcast_to(
            given(self.direction)[:, None, :], (len(given(self.direction)), *rows.values.shape)
        )
        return jnp.where(True if rows.observed is None else rows.observed, rows.values, filled)

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: Array
    ) -> Float[Array, "n d"]:
        """A draw in the missing cells: columns are independent given the component."""
        if rows.observed is None:
            return rows.values
        return jnp.where(rows.observed, rows.values, self.sample(key, labels))

    def configured(self, summary: Summary, n_components: int) -> Self:
        """Itself: nothing depends on the data."""
        return eqx.tree_at(lambda c: c.cap, self, np.asarray(self.cap, dtype=float))

    def standardiser(self, summary: Summary) -> Affine:
        """No change: angles have their own unit."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """The same, directions brought to (-pi, pi]."""
        assert np.ndim(units.scale) == 1
        if self.direction is None or not isinstance(self.direction, np.ndarray):
            return self
        return eqx.tree_at(lambda c: c.direction, self, np.asarray(_wrapped(given(self.direction))))

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """Points on the circle: ``(cos x, sin x)``."""
        return np.concatenate([np.cos(values), np.sin(values)], axis=1)

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Angles in radians: beyond a hundred turns they are taken for something else."""
        bad = np.abs(values) > 100 * _TURN
        base.reject_cells(bad, values, names, "must hold angles in radians, within 100 turns of 0")

    def collapsed(self) -> np.ndarray:
        """How many columns of each component are at the cap."""
        at_cap = np.asarray(given(self.concentration)) >= 0.99 * np.asarray(self.cap)
        return at_cap.sum(1).astype(float)

    def projected(self) -> Self:
        """With concentrations at or below the cap."""
        kappa = jnp.clip(self.concentration, LEAST_CONCENTRATION, self.cap)
        return eqx.tree_at(lambda c: c.concentration, self, kappa)

    def _directions(self, statistics: Resultant) -> Float[Array, "k d"]:
        angle = jnp.arctan2(statistics.sine, statistics.cosine)
        if self.direction is None:
            return angle
        # The turn nearest to where the direction was: extrapolation sees no jump at pi.
        angle = self.direction + _wrapped(angle - given(self.direction))
        return _keep_unseen(statistics.count, self.direction, angle)

    def _with(self, direction: Array, concentration: Array) -> Self:
        return eqx.tree_at(
            lambda c: (c.direction, c.concentration),
            self,
            (direction, concentration),
            is_leaf=lambda node: node is None,
        )


def matched_concentration(length: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """The kappa with ``I1(kappa) / I0(kappa) = length``; 0 for a length of 0 or less.

    Newton from Banerjee's start with ``A' = 1 - A / kappa - A^2``; for lengths near 1 on the gap
    ``1 - A``, which keeps its digits.
    """
    length = jnp.clip(length, 1e-9, 1.0)
    gap = jnp.maximum(1.0 - length, jnp.finfo(length.dtype).eps)
    kappa = length * (2.0 - length**2) / (gap * (1.0 + length))

    def step(_: int, kappa: Array) -> Array:
        ratio_gap = _ratio_gap(kappa)
        ratio = 1.0 - ratio_gap
        slope = ratio_gap * (1.0 + ratio) - ratio / kappa
        # On log(1 - A) against log(kappa): nearly linear where kappa is large.
        change = (ratio_gap * jnp.log(ratio_gap / gap)) / (slope * kappa)
        return kappa * jnp.exp(jnp.clip(change, -2.0, 2.0))

    return jax.lax.fori_loop(0, 6, step, kappa)


def _ratio_gap(kappa: Array) -> Array:
    """``1 - I1 / I0``: by series where the difference would lose digits."""
    far = jnp.maximum(kappa, 50.0)
    x = 1.0 / far
    # Mardia & Jupp (2000), equation A.3 (asymptotic A(kappa)), to the sixth order
    series = x * (
        0.5 + x * (0.125 + x * (0.125 + x * (25 / 128 + x * (13 / 32 + x * 1073 / 1024))))
    )
    near = jnp.minimum(kappa, 50.0)
    return jnp.where(kappa > 50.0, series, 1.0 - i1e(near) / i0e(near))


def draw_angles(key: Key, direction: Array, concentration: Array) -> Array:
    """Draws by rejection from a wrapped Cauchy, at most 64 tries a cell.

    Best & Fisher (1979), "Efficient simulation of the von Mises distribution"; below kappa 1e-3,
    where the envelope is flat, and in the one cell in 10^11 that no try fills, the last proposal.
    """
    kappa = jnp.maximum(concentration, 1e-3)
    root = jnp.sqrt(1.0 + 4.0 * kappa**2)
    rho = (1.0 + root - jnp.sqrt(2.0 * (1.0 + root))) / (2.0 * kappa)
    shape = (1.0 + rho**2) / (2.0 * rho)

    def step(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        angle, done = carry
        a, b, c = jax.random.uniform(
            jax.random.fold_in(key, index), (3, *kappa.shape), kappa.dtype, minval=1e-12
        )
        z = jnp.cos(np.pi * a)
        f = (1.0 + shape * z) / (shape + z)
        height = kappa * (shape - f)
        accept = (height * (2.0 - height) - b > 0) | (jnp.log(height / b) + 1.0 - height >= 0)
        proposal = jnp.sign(c - 0.5) * jnp.arccos(jnp.clip(f, -1.0, 1.0))
        return jnp.where(done, angle, proposal), done | accept

    start = (jnp.zeros_like(kappa), jnp.zeros(kappa.shape, bool))
    angle, _ = jax.lax.fori_loop(0, _REJECTIONS, step, start)
    return _wrapped(direction + angle)


def _keep_unseen(count: Array, old: Array | None, new: Array) -> Array:
    """``old`` for cells that no row supports."""
    if old is None:
        return new
    return jnp.where(count <= 10 * jnp.finfo(count.dtype).tiny, old, new)


def _wrapped(angle: Any) -> Any:
    """Within [-pi, pi)."""
    return (angle + np.pi) % _TURN - np.pi
