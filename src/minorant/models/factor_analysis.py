r"""Factor analysis: each row a linear map of a few normal factors, plus independent noise.

.. math:: z \sim N(0, I_l), \quad x = m + L z + e, \quad e \sim N(0, \Psi), \qquad
          x \sim N(m, L L^T + \Psi)

``Psi`` is diagonal with a variance for each column (factor analysis), or one variance for all
(probabilistic principal components, :func:`PPCA`). Up to 400 columns the M-step sees first and
second moments of the rows, missing cells completed, and is the exact maximiser of the likelihood
given these, factors integrated out: closed for PPCA, Newton on the profile likelihood else. So
with complete rows there is nothing to iterate, and with missing cells only they make EM steps
necessary, not the factors. With more columns, or where parameters are fixed, it is the EM step of
Rubin & Thayer (1982), with parameter expansion, O(n d l).
"""

from __future__ import annotations

from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._linalg import LOG_TWO_PI
from minorant._parameters import constant, given, parameter, positive, real
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import factor_analyser, low_rank
from minorant.components.base import of
from minorant.components.gaussian import location_scale
from minorant.components.scalar_covariance import Diagonal, Spherical
from minorant.models import factor_start, profile_likelihood
from minorant.models.base import AbstractContinuousModel, AbstractTractableModel, Expectation
from minorant.posteriors import Gaussian

_MOST_COLUMNS_COMPRESSED = 2000


class Moments(NamedTuple):
    """Weight of the rows, and the sums of ``x - mean`` and its squares, missing cells completed."""

    count: Float[Array, ""]
    first: Float[Array, " d"]
    second: Float[Array, "d d"]


class FactorAnalysis(AbstractTractableModel, AbstractContinuousModel):
    r"""Factor analysis with a variance of noise for each column.

    .. math:: \log p(x) = \log N(x; m, L L^T + \Psi)

    Loadings are told apart up to a rotation of the factors; the answer is in the canonical one,
    ``L^T Psi^-1 L`` diagonal and decreasing, each column's sum positive. Rotate it afterwards
    (:mod:`minorant.models.rotation`).

    Args:
        n_factors: l, at most the number of columns. Beyond the Ledermann bound,
            ``(d - l)^2 >= d + l``, noise and factors cannot be told apart; ``fit.degenerate``
            says so.
        noise: ``Diagonal()``, or ``Spherical()`` for one variance (see :func:`PPCA`).
        mean: (d,), in the data's units; None to be learned.
        loadings: (d, l), in the data's units; None to be learned.
        noise_variance: (d,), or a number for ``Spherical()``; squared units; None to be learned.
        floor: (d,) or a number, the least noise variance; None: 1e-6 of each column's variance
            (1.2e-5 in float32).

    Raises:
        ValueError: for fewer than one factor.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.models import FactorAnalysis
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(400, 1)) @ [[1.0, 2.0, 3.0]] + rng.normal(size=(400, 3))
        >>> fit = minorant.fit(FactorAnalysis(n_factors=1), rows)
        >>> np.round(fit.model.communalities(), 1)
        array([0.5, 0.8, 0.9])

    Not for: counts or answers on few levels (a latent trait model), clusters (``Mixture`` with
    ``FactorAnalyser``).

    Lawley & Maxwell (1971), "Factor analysis as a statistical method", 2nd ed., chapter 4.
    """

    n_factors: int = eqx.field(static=True)
    noise: Diagonal | Spherical = Diagonal()
    mean: Float[Array, " d"] | None = real(default=None)
    loadings: Float[Array, "d l"] | None = parameter(low_rank.Rotatable(), default=None)
    noise_variance: Float[Array, "*d"] | None = positive(default=None)
    floor: Float[Array, " d"] | None = constant(default=None)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible number of factors."""
        factor_analyser.check_number(self.n_factors)

    # The posterior and the evidence

    def prepare(self) -> low_rank.Factors:
        """The loadings over the noise, and the precision of z given a complete row."""
        return low_rank.prepare(self._parameters())

    def posterior(self, rows: Rows, prepared: low_rank.Factors) -> Gaussian:
        """The factor scores of every row and their covariance."""
        found = low_rank.latent(rows, prepared)
        return Gaussian(found.mean[0], low_rank.covariance(found)[0])

    def log_evidence(self, rows: Rows, prepared: low_rank.Factors) -> Float[Array, " n"]:
        """``log N(x_observed)``, missing cells integrated out."""
        return low_rank.log_prob(rows, prepared, low_rank.latent(rows, prepared))[0]

    def log_joint(self, rows: Rows, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log N(z; 0, I)`` plus the noise's log density over the observed cells."""
        mean, loadings, variance = (leaf[0] for leaf in self._parameters())
        away = rows.values - mean - latents @ loadings.T
        cells = -0.5 * (away * away / variance + jnp.log(variance) + LOG_TWO_PI)
        cells = cells if rows.observed is None else jnp.where(rows.observed, cells, 0.0)
        squares = (latents * latents + LOG_TWO_PI).sum(1)
        return cells.sum(1) - 0.5 * squares

    def log_prior(self) -> Float[Array, ""]:
        """No prior: 0."""
        return jnp.zeros((), given(self.mean).dtype)

    def sample(self, key: Key, n: int) -> tuple[Float[Array, "n l"], Float[Array, "n d"]]:
        """Factors and rows."""
        mean, loadings, variance = (leaf[0] for leaf in self._parameters())
        factor_key, noise_key = jax.random.split(key)
        latents = jax.random.normal(factor_key, (n, self.n_factors), dtype=mean.dtype)
        noise = jax.random.normal(noise_key, (n, len(mean)), dtype=mean.dtype)
        return latents, mean + latents @ loadings.T + jnp.sqrt(variance) * noise

    def imputed(self, rows: Rows, prepared: low_rank.Factors) -> Float[Array, "n d"]:
        """``E[x | x_observed]``: the row itself where observed."""
        scores = low_rank.latent(rows, prepared).mean[0]
        return _filled(rows, prepared.mean[0] + scores @ prepared.loadings[0].T)

    def imputed_sample(
        self, key: Key, rows: Rows, prepared: low_rank.Factors
    ) -> Float[Array, "n d"]:
        """A draw from ``p(x | x_observed)``: of the factors, then of the noise."""
        factor_key, noise_key = jax.random.split(key)
        latents = self.posterior(rows, prepared).sample(factor_key)
        noise = jax.random.normal(noise_key, rows.values.shape, dtype=rows.values.dtype)
        drawn = prepared.mean[0] + latents @ prepared.loadings[0].T
        return _filled(rows, drawn + jnp.sqrt(prepared.variance[0]) * noise)

    # The climb

    def expectation(self, rows: Rows, prepared: low_rank.Factors) -> Expectation:
        """Evidence and statistics in one pass."""
        found = low_rank.latent(rows, prepared)
        log_evidence = low_rank.log_prob(rows, prepared, found)[0]
        bound = jnp.where(rows.weight > 0, rows.weight * log_evidence, 0.0).sum()
        return Expectation(bound, self._statistics(rows, found, prepared))

    def statistics(
        self, rows: Rows, posterior: Gaussian, prepared: low_rank.Factors
    ) -> Moments | low_rank.Sums:
        """Completed moments, or sums over factors, under any normal q.

        Moments of complete rows do not depend on q: their M-step integrates the factors out.
        """
        root = jnp.swapaxes(_factors.cholesky(posterior.covariance), 1, 2)
        found = low_rank.latent(rows, prepared)
        found = found._replace(mean=posterior.mean[None], root=root[None])
        return self._statistics(rows, found, prepared)

    def maximise(self, statistics: Moments | low_rank.Sums, fixed: PyTree | None = None) -> Self:
        """The maximiser given completed moments; or the EM step, holding what is fixed."""
        if isinstance(statistics, Moments) and fixed is None:
            return self._profiled(statistics)
        old = self._parameters()
        if isinstance(statistics, Moments):
            lifted = (leaf[None] for leaf in statistics)
            statistics = low_rank.from_moments(low_rank.prepare(old), *lifted)
        new = low_rank.regressed(old, statistics, _held(fixed))
        if isinstance(self.noise, Spherical):
            new = new._replace(variance=low_rank.pooled(new.variance, statistics))
        mean, loadings, variance = (leaf[0] for leaf in new)
        variance = jnp.maximum(variance, self._floor())
        if fixed is None:
            loadings = low_rank.canonical(loadings, variance)
        return self._with(mean, loadings, self._stored(variance, of(fixed, "noise_variance")))

    def projected(self) -> Self:
        """With the noise at or above its floor."""
        variance = self.noise.floored(given(self.noise_variance), given(self.floor))
        return self._with(self.mean, self.loadings, variance)

    def rounding(self, prepared: low_rank.Factors) -> Float[Array, ""]:
        """A cell's rounding counts in units of its noise."""
        return (1.0 / jnp.sqrt(prepared.variance)).sum()

    def shares_patterns(self) -> bool:
        """One factorisation for each pattern of missing cells."""
        return True

    def compresses(self, n_columns: int) -> bool:
        """Complete rows enter through their moments alone."""
        return n_columns <= _MOST_COLUMNS_COMPRESSED

    def reason(self) -> str:
        """The factors are integrated out."""
        return (
            "FactorAnalysis' own exact posterior (normal latent in a linear model, integrated in "
            "closed form), so the bound equals log p(X)"
        )

    # Units, checks, start

    def configured(self, summary: Summary) -> Self:
        """With the floor filled in."""
        return factor_analyser.with_floor(self, summary)

    def standardiser(self, summary: Summary) -> Affine:
        """Zero mean and unit variance; one common scale where the noise is one for all columns."""
        return location_scale(summary, common=isinstance(self.noise, Spherical))

    def rescaled(self, units: Affine) -> Self:
        """Mean, loadings, noise and floor in other units."""
        return factor_analyser.in_units(self, units)

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Any finite number is in the support; there must be a column for every factor."""
        if self.n_factors > len(names):
            raise ValueError(
                f"n_factors={self.n_factors} is more than the {len(names)} columns: give at most "
                f"{ledermann(len(names))} factors, the most that can be told from noise here."
            )

    def initial(self, rows: Rows, rng: np.random.Generator) -> Self:
        """Noise variances from the columns' multiple correlations, loadings from eigenvectors."""
        spherical = isinstance(self.noise, Spherical)
        mean, loadings, variance = factor_start.start(
            rows, rng, self.n_factors, np.asarray(self._floor(), dtype=float), spherical
        )
        return self._with(mean, loadings, variance.max() if spherical else variance)

    def invariants(self) -> Float[np.ndarray, " q"]:
        """Mean, common variances and covariances, and noise: rotations of the factors apart."""
        loadings = np.asarray(self.loadings, dtype=float)
        noise = np.log(given(self.noise_variance))
        return np.r_[given(self.mean), (loadings @ loadings.T).ravel(), noise]

    def irregular(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Heywood cases, constant columns, and more factors than can be told from noise."""
        if isinstance(self.noise, Spherical):
            return ()
        variance, floor = np.asarray(self.noise_variance), np.asarray(self.floor)
        explained = (np.asarray(self.loadings) ** 2).sum(1)
        at_floor = np.flatnonzero(variance <= 1.01 * floor)
        said = [_heywood(names[j], bool(explained[j] <= floor[j])) for j in at_floor]
        if self.n_factors > ledermann(len(names)):
            said.append(
                f"{self.n_factors} factors of {len(names)} columns are more than the Ledermann "
                f"bound, {ledermann(len(names))}: other loadings and noise variances give the same "
                "likelihood. Use fewer factors, or PPCA."
            )
        return tuple(said)

    # What the parameters say

    def covariance(self) -> Float[np.ndarray, "d d"]:
        """``L L^T + Psi``."""
        loadings = np.asarray(given(self.loadings))
        return loadings @ loadings.T + np.diag(np.asarray(self._parameters().variance)[0])

    def communalities(self) -> Float[np.ndarray, " d"]:
        """The share of each column's variance that the factors explain."""
        explained = (np.asarray(given(self.loadings)) ** 2).sum(1)
        return explained / (explained + np.asarray(self._parameters().variance)[0])

    # Parts

    def _parameters(self) -> low_rank.Parameters:
        """The parameters as one density of k = 1."""
        mean, loadings = given(self.mean), given(self.loadings)
        variance = given(self.noise_variance)
        xp = np if isinstance(mean, np.ndarray) else jnp
        full = xp.broadcast_to(xp.asarray(variance), mean.shape)
        return low_rank.Parameters(mean[None], loadings[None], full[None])

    def _statistics(
        self, rows: Rows, found: low_rank.Latent, prepared: low_rank.Factors
    ) -> Moments | low_rank.Sums:
        if rows.values.shape[1] > factor_start.MOST_COLUMNS_BY_MOMENTS:
            return low_rank.sums(rows, rows.weight[None], found)
        return completed_moments(rows, found, prepared)

    def _profiled(self, moments: Moments) -> Self:
        """Mean, loadings and noise at the maximum of the likelihood of these moments."""
        shift = moments.first / moments.count
        covariance = moments.second / moments.count - shift[:, None] * shift
        if isinstance(self.noise, Spherical):
            found = profile_likelihood.isotropic(covariance, self._floor().max(), self.n_factors)
        else:
            start = self._parameters().variance[0]
            found = profile_likelihood.diagonal(covariance, start, self._floor(), self.n_factors)
        return self._with(given(self.mean) + shift, found.loadings, self._stored(found.variance))

    def _floor(self) -> Float[Array, " d"]:
        return given(self.floor)

    def _stored(self, variance: Float[Array, " d"], fixed: Array | None = None) -> Array:
        """Noise variances (d,) in the shape of the noise, what is fixed as it was."""
        own = variance if isinstance(self.noise, Diagonal) else variance.max()
        return own if fixed is None else jnp.where(fixed, given(self.noise_variance), own)

    def _with(self, mean: Array | None, loadings: Array | None, variance: Array | None) -> Self:
        return factor_analyser.replaced(self, mean, loadings, variance)


def PPCA(n_factors: int, **parameters: Array) -> FactorAnalysis:  # noqa: N802
    r"""Probabilistic principal components: factor analysis with one noise variance for all columns.

    .. math:: \log p(x) = \log N(x; m, L L^T + \sigma^2 I)

    Where nothing is missing the answer is closed: eigenvectors and eigenvalues of the covariance.

    Args:
        n_factors: l, the number of components.
        parameters: ``mean`` (d,), ``loadings`` (d, l), ``noise_variance`` (a number), ``floor``, as
            for :class:`FactorAnalysis`; those left out are learned.

    Returns:
        A :class:`FactorAnalysis` with ``noise=Spherical()``.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.models import PPCA
        >>> rows = np.c_[np.arange(20.0), 2 * np.arange(20.0) + np.resize([1, -1], 20)]
        >>> fit = minorant.fit(PPCA(n_factors=1), rows)
        >>> bool(fit.model.noise_variance < 1)
        True

    Not for: columns in different units (their scale decides; use :class:`FactorAnalysis`).

    Tipping & Bishop (1999), "Probabilistic principal component analysis".
    """
    return FactorAnalysis(n_factors, Spherical(), **parameters)


def ledermann(d: int) -> int:
    """The most factors with ``(d - l)^2 >= d + l``, but at least 1 (Ledermann, 1937)."""
    return max(int((2 * d + 1 - np.sqrt(8 * d + 1)) / 2), 1)


def completed_moments(rows: Rows, found: low_rank.Latent, prepared: low_rank.Factors) -> Moments:
    """First and second moments about the mean, missing cells by their conditional moments."""
    filled, weight = found.away[0], rows.weight
    if rows.observed is not None:
        filled = jnp.where(rows.observed, filled, found.mean[0] @ prepared.loadings[0].T)
    weighted = filled * weight[:, None]
    second = weighted.T @ filled
    if rows.observed is not None:
        second = second + _missing_spread(rows, found, prepared)
    return Moments(weight.sum(), weighted.sum(0), second)


def _missing_spread(
    rows: Rows, found: low_rank.Latent, prepared: low_rank.Factors
) -> Float[Array, "d d"]:
    """``sum w Cov[x_missing | x_observed]``: the scores' covariance seen through the loadings."""
    observed = jnp.asarray(True if rows.observed is None else rows.observed)
    gap = jnp.where(observed, 0.0, jnp.ones((), rows.values.dtype))
    spread = (found.root[0] @ prepared.loadings[0].T) * gap[:, None, :]
    weight = rows.weight.sum()[None] if len(gap) == 1 else rows.weight
    scaled = (spread * jnp.sqrt(weight)[:, None, None]).reshape(-1, gap.shape[1])
    return scaled.T @ scaled + jnp.diag((weight @ gap) * prepared.variance[0])


def _held(fixed: PyTree | None) -> low_rank.Held:
    """The model's flags as those of one density of k = 1."""
    names = ("mean", "loadings", "noise_variance")
    flags = (of(fixed, name) for name in names)
    return low_rank.Held(*(None if flag is None else jnp.asarray(flag)[None] for flag in flags))


def _filled(rows: Rows, guess: Array) -> Array:
    observed = True if rows.observed is None else rows.observed
    return jnp.where(observed, rows.values, guess)


def _heywood(name: str, is_constant: bool) -> str:
    if is_constant:
        return f"Column {name!r} does not vary: it tells nothing of the factors. Leave it out."
    return (
        f"Column {name!r} has a noise variance on its floor (a Heywood case): the factors explain "
        "it wholly, and its standard error means nothing. Use fewer factors, drop columns that "
        "nearly repeat each other, or give a larger floor."
    )
