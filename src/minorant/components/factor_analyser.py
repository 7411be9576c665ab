r"""The factor analyser as a component: ``p(x | k) = N(x; mean_k, L_k L_k^T + Psi_k)``.

``Mixture(FactorAnalyser(n_factors), n_components=k)`` is the mixture of factor analysers; with
``noise=Spherical()`` that of probabilistic principal components. A covariance costs d l numbers
instead of d (d + 1) / 2, and nothing is ever d x d, so hundreds to thousands of columns are fine.
The mathematics is in ``low_rank.py``. Ghahramani & Hinton (1996), "The EM algorithm for mixtures of
factor analyzers", with a noise variance for each component and column.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _factors
from minorant._parameters import constant, given, keep, parameter, real
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base, gaussian, low_rank
from minorant.components.scalar_covariance import Diagonal, Spherical

_SPARE = 20  # directions of the sketch beyond twice the factors
_LEAST_NOISE = 0.05
_JITTER = 0.02  # of a column's standard deviation: loadings of zero would stay zero


class PartSums(NamedTuple):
    """Moments of parts of the rows: weight, sum, squares, and the covariance seen by a sketch."""

    count: Float[Array, " k"]
    first: Float[Array, "k d"]
    square: Float[Array, "k d"]
    seen: Float[Array, "k d q"]


class FactorAnalyser(base.AbstractComponent):
    r"""k normal densities of low rank plus diagonal.

    .. math:: \log p(x \mid k) = \log N(x; m_k, L_k L_k^T + \Psi_k)

    The M-step takes labels and factors both as latent, with parameter expansion; it never lowers
    the likelihood. Loadings are learned up to a rotation; ``canonical`` picks one.

    Args:
        n_factors: l, below the number of columns.
        noise: ``Diagonal()``, a variance for each column; ``Spherical()``, one for all.
        mean: (k, d), in the data's units; None to be learned.
        loadings: (k, d, l), in the data's units; None to be learned.
        noise_variance: (k, d), or (k,) for ``Spherical()``; squared units; None to be learned.
        floor: (d,) or a number, the least noise variance; None: 1e-6 of each column's variance
            (1.2e-5 in float32).

    Raises:
        ValueError: for fewer than one factor.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import FactorAnalyser
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(200, 8)) + 6.0 * rng.integers(2, size=(200, 1))
        >>> model = minorant.Mixture(FactorAnalyser(n_factors=1), n_components=2)
        >>> minorant.fit(model, rows).model.component.loadings.shape
        (2, 8, 1)

    Not for: few columns and many rows (``Gaussian``), counts or categories.
    """

    n_factors: int = eqx.field(static=True)
    noise: Diagonal | Spherical = Diagonal()
    mean: Float[Array, "k d"] | None = real(default=None)
    loadings: Float[Array, "k d l"] | None = parameter(low_rank.Rotatable(), default=None)
    noise_variance: Float[Array, "k *d"] | None = parameter(
        lambda self: self.noise.constraint(), default=None
    )
    floor: Float[Array, " d"] | None = constant(default=None)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible number of factors."""
        check_number(self.n_factors)

    def prepare(self) -> low_rank.Factors:
        """Loadings over noise, and the factors' precisions."""
        return low_rank.prepare(self._parameters())

    def log_prob(self, rows: Rows, prepared: low_rank.Factors) -> Float[Array, "k n"]:
        """``log N(x_observed)``, missing cells integrated out."""
        return low_rank.log_prob(rows, prepared, low_rank.latent(rows, prepared))

    def statistics(
        self, rows: Rows, responsibilities: Float[Array, "k n"], prepared: low_rank.Factors | None
    ) -> low_rank.Sums | PartSums:
        """Sums over rows and factors; of parts of the rows, where there are no factors yet."""
        if prepared is None:
            return _part_sums(rows, responsibilities, self.n_factors)
        return low_rank.sums(rows, responsibilities, low_rank.latent(rows, prepared))

    def maximise(self, statistics: low_rank.Sums | PartSums, fixed: PyTree | None) -> Self:
        """The expanded EM step; from parts, their leading directions."""
        if isinstance(statistics, PartSums):
            return self._begun(statistics)
        names = ("mean", "loadings", "noise_variance")
        held = low_rank.Held(*(base.of(fixed, name) for name in names))
        new = low_rank.regressed(self._parameters(), statistics, held)
        if isinstance(self.noise, Spherical):
            new = new._replace(variance=low_rank.pooled(new.variance, statistics))
        own = keep(held.variance, self.noise_variance, self._floored(new))
        empty = statistics.features[:, 0]
        return self._with(
            new.mean, new.loadings, base.keep_if_empty(empty, self.noise_variance, own)
        )

    def adds_up(self) -> bool:
        """No: the expanded step regresses on factors as its own parameters see them."""
        return False

    def expected_log_prob(self, statistics: low_rank.Sums) -> Float[Array, " k"]:
        """The expected log joint of rows and factors, whose slope is that of the density."""
        return low_rank.expected(self._parameters(), given(self.mean), statistics)

    def log_prior(self) -> Float[Array, ""]:
        """No prior: 0."""
        return jnp.zeros((), given(self.mean).dtype)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """``m_z + L_z f + noise``, one component after the other."""
        mean, loadings, variance = self._parameters()
        factor_key, noise_key = jax.random.split(key)
        shape = (labels.shape[0], self.n_factors)
        factors = jax.random.normal(factor_key, shape, dtype=mean.dtype)
        noise = jax.random.normal(noise_key, (shape[0], mean.shape[1]), dtype=mean.dtype)
        return _by_label(
            mean, loadings, variance, factors[None].repeat(len(mean), 0), noise, labels
        )

    def conditional_mean(self, rows: Rows, prepared: low_rank.Factors) -> Float[Array, "k n d"]:
        """``m + L E[f | x_observed]`` in the missing cells."""
        if rows.observed is None:
            return jnp.broadcast_to(rows.values, (len(prepared.mean), *rows.values.shape))
        scores = low_rank.latent(rows, prepared).mean
        guess = prepared.mean[:, None] + scores @ jnp.swapaxes(prepared.loadings, 1, 2)
        return jnp.where(rows.observed, rows.values, guess)

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: low_rank.Factors
    ) -> Float[Array, "n d"]:
        """A draw of the factors given the observed cells, then of the noise."""
        if rows.observed is None:
            return rows.values
        factor_key, noise_key = jax.random.split(key)
        found = low_rank.latent(rows, prepared)
        shape = found.mean.shape[1:]
        draws = jax.random.normal(factor_key, shape, dtype=found.mean.dtype)
        factors = found.mean + low_rank.uncertain(found.root, draws)
        noise = jax.random.normal(noise_key, rows.values.shape, dtype=rows.values.dtype)
        mean, loadings, variance = prepared.mean, prepared.loadings, prepared.variance
        drawn = _by_label(mean, loadings, variance, factors, noise, labels)
        return jnp.where(rows.observed, rows.values, drawn)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With the floor filled in, in the data's units.

        Raises:
            ValueError: for as many factors as columns.
        """
        if self.n_factors >= summary.n_columns:
            raise ValueError(
                f"n_factors={self.n_factors} must be below the number of columns, "
                f"{summary.n_columns}: use fewer factors, or the Gaussian component."
            )
        return with_floor(self, summary)

    def standardiser(self, summary: Summary) -> Affine:
        """Zero mean and unit variance, with one common scale where the noise is spherical."""
        return gaussian.location_scale(summary, common=isinstance(self.noise, Spherical))

    def rescaled(self, units: Affine) -> Self:
        """Means, loadings, noise and floor in other units."""
        return in_units(self, units)

    def numbers_per_row(self, n_columns: int) -> int:
        """Cells, their products with the factors, and products of two factors."""
        return n_columns * (self.n_factors + 2) + self.n_factors**2

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The rows themselves: they come standardised."""
        return values

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Any finite number is in the support."""

    def collapsed(self) -> np.ndarray:
        """How many directions of each component lie on the floor, which no factor spans."""
        variance = np.asarray(self._parameters().variance, dtype=float)
        floor = np.asarray(given(self.floor), dtype=float)
        loadings = np.asarray(given(self.loadings), dtype=float) / np.sqrt(floor)[:, None]
        return np.array(
            [
                _unspanned(own[low])
                for own, low in zip(loadings, variance < 1.01 * floor, strict=True)
            ]
        )

    def projected(self) -> Self:
        """With the noise at or above its floor."""
        variance = self.noise.floored(given(self.noise_variance), given(self.floor))
        return self._with(self.mean, self.loadings, variance)

    def rounding(self, prepared: low_rank.Factors) -> Float[Array, ""]:
        """A cell's rounding counts in units of its noise."""
        return (1.0 / jnp.sqrt(prepared.variance)).sum(1).max()

    def shares_patterns(self) -> bool:
        """One factorisation for each pattern of missing cells."""
        return True

    def canonical(self) -> Self:
        """In the rotation with ``L^T Psi^-1 L`` diagonal and decreasing; the same densities."""
        _, loadings, variance = self._parameters()
        pairs = zip(np.asarray(loadings), np.asarray(variance), strict=True)
        turned = np.stack([low_rank.canonical(own, noise) for own, noise in pairs])
        return self._with(self.mean, turned, self.noise_variance)

    def _parameters(self) -> low_rank.Parameters:
        """The noise variances spread over the columns."""
        mean, variance = given(self.mean), given(self.noise_variance)
        xp = np if isinstance(mean, np.ndarray) else jnp
        full = xp.broadcast_to(variance.reshape(len(mean), -1), mean.shape)
        return low_rank.Parameters(mean, given(self.loadings), full)

    def _floored(self, new: low_rank.Parameters) -> Array:
        """Noise variances in the shape of the noise, at or above the floor."""
        own = new.variance if isinstance(self.noise, Diagonal) else new.variance[:, 0]
        return self.noise.floored(own, given(self.floor))

    def _begun(self, parts: PartSums) -> Self:
        """Means of the parts, and loadings from the leading directions of their covariances."""
        found = jax.vmap(_leading, (0, 0, 0, 0, None))(*parts, self.n_factors)
        variance = jnp.maximum(found.variance, given(self.floor))
        if isinstance(self.noise, Spherical):
            variance = jnp.broadcast_to(variance.mean(1, keepdims=True), variance.shape)
        return self._with(
            found.mean, found.loadings, self._floored(found._replace(variance=variance))
        )

    def _with(self, mean: Array | None, loadings: Array | None, variance: Array | None) -> Self:
        return replaced(self, mean, loadings, variance)


def check_number(n_factors: Any) -> None:
    """Raise ValueError unless it is a whole number of at least 1."""
    if not isinstance(n_factors, int) or n_factors < 1:
        raise ValueError(f"n_factors must be an integer of at least 1; got {n_factors!r}.")


def replaced(part: Any, mean: Any, loadings: Any, variance: Any) -> Any:
    """A factor model or component with other parameters, some of them None."""
    return eqx.tree_at(
        lambda c: (c.mean, c.loadings, c.noise_variance),
        part,
        (mean, loadings, variance),
        is_leaf=_is_none,
    )


def with_floor(part: Any, summary: Summary) -> Any:
    """A factor model or component with its floor (d,) filled in, in the data's units."""
    floor = part.floor
    if floor is None:
        floor = gaussian.relative_floor(summary) * gaussian.reference_variance(summary)
    floor = np.broadcast_to(np.asarray(floor, dtype=float), (summary.n_columns,)).copy()
    return eqx.tree_at(lambda c: c.floor, part, floor, is_leaf=_is_none)


def in_units(part: Any, units: Affine) -> Any:
    """A factor model or component for rows in other units; exact."""
    mean, loadings, variance = part.mean, part.loadings, part.noise_variance
    moved = replaced(
        part,
        None if mean is None else units.apply(mean),
        None if loadings is None else loadings / units.scale[:, None],
        None if variance is None else part.noise.rescaled(variance, units),
    )
    floor = None if part.floor is None else part.floor / units.scale**2
    return eqx.tree_at(lambda c: c.floor, moved, floor, is_leaf=_is_none)


def _by_label(
    mean: Array, loadings: Array, variance: Array, factors: Array, noise: Array, labels: Array
) -> Float[Array, "n d"]:
    """``m_z + L_z f_z + noise``, one component after the other: no loadings per row."""

    def add(drawn: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        k, own_mean, own_loadings, own_variance, own_factors = part
        own = own_mean + own_factors @ own_loadings.T + jnp.sqrt(own_variance) * noise
        return jnp.where((labels == k)[:, None], own, drawn), None

    parts = (jnp.arange(len(mean)), jnp.asarray(mean), jnp.asarray(loadings), variance, factors)
    return jax.lax.scan(add, jnp.zeros_like(noise), parts)[0]


def _sketch(d: int, n_factors: int) -> Float[np.ndarray, "d q"]:
    """Orthonormal directions: all of them where they are few, else random ones, always the same."""
    q = min(d, 2 * n_factors + _SPARE)
    if q == d:
        return np.eye(d)
    return np.linalg.qr(np.random.default_rng(0).standard_normal((d, q)))[0]


def _part_sums(rows: Rows, responsibilities: Float[Array, "k n"], n_factors: int) -> PartSums:
    """The covariances enter as their products with the sketch: O(n d) numbers per component."""
    r, values = responsibilities, rows.values
    sketch = jnp.asarray(_sketch(values.shape[1], n_factors), values.dtype)
    seen = values @ sketch
    weighted = jnp.swapaxes(r[:, :, None] * seen, 1, 2) @ values
    return PartSums(r.sum(1), r @ values, r @ (values * values), jnp.swapaxes(weighted, 1, 2))


def _leading(
    count: Array, first: Array, square: Array, seen: Array, n_factors: int
) -> low_rank.Parameters:
    """Mean, and leading eigenvectors of a part's covariance S from S times the sketch.

    Nystrom's approximation ``(S W) (W^T S W)^-1 (S W)^T``, exact where the sketch W is square.
    Halko, Martinsson & Tropp (2011), "Finding structure with randomness", section 5.4.
    """
    d = first.shape[0]
    sketch = jnp.asarray(_sketch(d, n_factors), first.dtype)
    total = base.safe_count(count)
    mean = first / total
    variance = jnp.maximum(square / total - mean * mean, 0.0)
    product = seen / total - mean[:, None] * (mean @ sketch)
    core = sketch.T @ product
    values, vectors = (part[0] for part in _factors.eigh(0.5 * (core + core.T)[None]))
    kept = values > 1e-6 * jnp.maximum(values[-1], jnp.finfo(values.dtype).tiny)
    root = product @ (vectors * jnp.where(kept, 1.0 / jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0))
    squares, turns = (part[0] for part in _factors.eigh((root.T @ root)[None]))
    squares, turns = squares[::-1][:n_factors], turns[:, ::-1][:, :n_factors]
    left = jnp.maximum(variance.sum() - squares.sum(), 0.0) / max(d - n_factors, 1)
    shrunk = jnp.sqrt(jnp.maximum(1.0 - left / jnp.maximum(squares, 1e-30), 0.0))
    jitter = np.random.default_rng(1).standard_normal((d, n_factors)).astype(first.dtype)
    loadings = root @ turns * shrunk + _JITTER * jnp.sqrt(variance)[:, None] * jitter
    noise = jnp.maximum(variance - (loadings * loadings).sum(1), _LEAST_NOISE * variance)
    return low_rank.Parameters(mean, loadings, noise)


def _unspanned(loadings: Float[np.ndarray, "m l"]) -> float:
    """Directions among the columns on the floor in which no factor moves the rows."""
    if len(loadings) == 0:
        return 0.0
    return float(len(loadings) - (np.linalg.svd(loadings, compute_uv=False) > 0.1).sum())


def _is_none(node: object) -> bool:
    return node is None
