"""`FactorAnalysis` and `PPCA`: scikit-learn's estimators of linear factors, with gaps and weights.

JAX is imported when a fit or a prediction needs it, never before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from minorant.estimators._factors import FactorEstimator, Scores
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import DEFAULTS, N_INIT

if TYPE_CHECKING:
    from minorant.models import FactorAnalysis as FactorModel
    from minorant.result import Fit


class FactorAnalysis(FactorEstimator):
    r"""Factor analysis, a drop-in for `sklearn.decomposition.FactorAnalysis`.

    .. math:: x = m + L z + e, \quad z \sim N(0, I), \quad e \sim N(0, \mathrm{diag}(v))

    Arguments, attributes, methods and their meanings are scikit-learn's, but for these:

    - missing cells (NaN, None, NA) are integrated out exactly; rows may have weights;
    - the maximum is found by Newton steps on the profile likelihood, so that the answer has all of
      its digits; `tol` is what is estimated to be left to gain, in nats per row;
    - factors come in the canonical rotation (``L^T V^-1 L`` diagonal and decreasing, each one's
      loadings with a positive sum), or turned by `rotation`, "oblimin" among them;
    - `scores` gives the factors with their uncertainty, `impute` fills missing cells.

    Args:
        n_components: l; None: as many as there are columns.
        tol: nats per row that may be left to gain.
        copy: not used.
        max_iter: limit on EM steps.
        noise_variance_init: (d,) noise variances to start from.
        svd_method: not used.
        iterated_power: not used.
        rotation: None, "varimax", "quartimax" or "oblimin".
        n_init: how many starts; "auto": one. More where columns are few or noises near zero.
        random_state: int, RandomState, Generator, or None.

    Attributes:
        components_: (l, d) loadings, turned where `rotation` asks for it.
        noise_variance_: (d,).
        mean_: (d,).
        communalities_: (d,) share of each column's variance that the factors explain.
        factor_correlation_: (l, l) of the turned factors.
        loglike_: the log-likelihood at each step.
        n_iter_: steps.
        irregular_: a sentence for every Heywood case, constant column, and too many factors.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import FactorAnalysis
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(200, 1)) @ [[3.0, 2.0, 1.0]] + rng.normal(size=(200, 3))
        >>> rows[::7, 1] = np.nan
        >>> model = FactorAnalysis(1).fit(rows)
        >>> model.transform(rows).shape, np.round(model.communalities_, 1)
        ((200, 1), array([0.9, 0.8, 0.6]))

    Not for: answers on few levels (a latent trait model), clusters.

    Lawley & Maxwell (1971), "Factor analysis as a statistical method"; Joreskog (1967), "Some
    contributions to maximum likelihood factor analysis".
    """

    rotation_matrix_: Float[np.ndarray, "l l"]
    factor_correlation_: Float[np.ndarray, "l l"]

    def __init__(  # noqa: PLR0913
        self,
        n_components: int | None = None,
        *,
        tol: float = DEFAULTS["tol"],
        copy: bool = DEFAULTS["copy"],
        max_iter: int = DEFAULTS["max_iter"],
        noise_variance_init: Values = None,
        svd_method: str = DEFAULTS["svd_method"],
        iterated_power: int = DEFAULTS["iterated_power"],
        rotation: str | None = DEFAULTS["rotation"],
        n_init: int | str = N_INIT.default,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.copy = copy
        self.max_iter = max_iter
        self.noise_variance_init = noise_variance_init
        self.svd_method = svd_method
        self.iterated_power = iterated_power
        self.rotation = rotation
        self.n_init = n_init
        self.random_state = random_state

    def _model(self, d: int) -> FactorModel:
        from minorant.models import FactorAnalysis as FactorModel

        start = self.noise_variance_init
        if start is None:
            return FactorModel(self.n_components or d)
        start = np.asarray(start, dtype=float)
        if start.shape != (d,) or not np.all(np.isfinite(start) & (start > 0)):
            raise ValueError(
                f"noise_variance_init must hold {d} finite numbers above 0, one for each column; "
                f"got {start.tolist()}, of shape {start.shape}."
            )
        return FactorModel(self.n_components or d, noise_variance=start)

    def _publish(self, answer: Fit, dtype: np.dtype) -> None:
        from minorant.models.rotation import Rotation, rotate

        loadings = np.asarray(answer.model.loadings)
        eye = np.eye(loadings.shape[1])
        turned = Rotation(loadings, eye, eye)
        if self.rotation is not None:
            turned = rotate(loadings, self.rotation, normalise=False)
        self.components_ = np.ascontiguousarray(turned.loadings.T.astype(dtype))
        self.rotation_matrix_ = turned.transform
        self.factor_correlation_ = turned.correlation.astype(dtype)
        self.noise_variance_ = answer.model.noise_variance.astype(dtype)
        super()._publish(answer, dtype)

    def transform(self, X: Rows) -> Float[np.ndarray, "n l"]:
        """Return the factors' posterior mean for every row; see `scores` for their uncertainty."""
        found, dtype = self._scores(X)
        return (found.mean @ self.rotation_matrix_).astype(dtype)

    def scores(self, X: Rows) -> Scores:
        """Return ``p(z | x)`` of every row, the factors turned as `components_` are."""
        found, _ = self._scores(X)
        turn = self.rotation_matrix_
        return Scores(found.mean @ turn, turn.T @ found.covariance @ turn)


class PPCA(FactorEstimator):
    r"""Probabilistic principal components: `sklearn.decomposition.PCA`'s model, with gaps.

    .. math:: x = m + L z + e, \quad z \sim N(0, I), \quad e \sim N(0, \sigma^2 I)

    The axes, scores and densities are those of scikit-learn's PCA, whose variances have divisor
    n - 1 where these, by maximum likelihood, have n. Missing cells are integrated out exactly and
    rows may have weights; `transform` projects rows whose missing cells are filled by their mean
    given the others.

    Args:
        n_components: l, below the number of columns; None: all along which the rows
            vary, at most one fewer than columns.
        tol: nats per row that may be left to gain (where cells are missing).
        max_iter: limit on EM steps.
        n_init: how many starts; "auto": one, which finds the only maximum of a complete table.
        random_state: int, RandomState, Generator, or None.

    Attributes:
        components_: (l, d) principal axes, of length 1.
        explained_variance_: (l,) variance along each axis; `explained_variance_ratio_` its share.
        noise_variance_: the variance left, per direction.
        mean_: (d,).
        communalities_: (d,) share of each column's variance that the components explain.
        loglike_: the log-likelihood at each step.
        n_iter_: steps.
        n_components_: l.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import PPCA
        >>> rows = np.c_[np.arange(20.0), 2 * np.arange(20.0) + np.resize([1, -1], 20)]
        >>> rows[3, 0] = np.nan
        >>> np.round(PPCA(1).fit(rows).components_, 2)
        array([[0.45, 0.89]])

    Not for: columns in different units (`FactorAnalysis`), dimension reduction of complete tables
    with very many columns (scikit-learn's PCA).

    Tipping & Bishop (1999), "Probabilistic principal component analysis".
    """

    explained_variance_: Float[np.ndarray, " l"]
    explained_variance_ratio_: Float[np.ndarray, " l"]
    n_components_: int

    def __init__(
        self,
        n_components: int | None = None,
        *,
        tol: float = DEFAULTS["tol"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = N_INIT.default,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state

    def _model(self, d: int) -> FactorModel:
        from minorant.models import PPCA as model  # noqa: N811

        return model(self.n_components or max(d - 1, 1))

    def _publish(self, answer: Fit, dtype: np.dtype) -> None:
        loadings, noise = np.asarray(answer.model.loadings), float(answer.model.noise_variance)
        axes, sizes, _ = np.linalg.svd(loadings, full_matrices=False)
        d = len(loadings)
        total = (sizes**2).sum() + d * noise
        if self.n_components is None:  # directions in which no row moves have no axis of their own
            kept = max(int((sizes**2 > 1e-12 * total).sum()), 1)
            axes, sizes = axes[:, :kept], sizes[:kept]
        axes = axes * np.where(axes.sum(0) < 0, -1.0, 1.0)
        variance = sizes**2 + noise
        self.components_ = np.ascontiguousarray(axes.T.astype(dtype))
        self.explained_variance_ = variance.astype(dtype)
        self.explained_variance_ratio_ = (variance / total).astype(dtype)
        self.noise_variance_ = noise
        self.n_components_ = len(sizes)
        super()._publish(answer, dtype)

    def transform(self, X: Rows) -> Float[np.ndarray, "n l"]:
        """Return the rows' coordinates on the principal axes, missing cells by their mean."""
        rows = self.impute(X)
        return (rows - self.mean_) @ self.components_.T

    def inverse_transform(self, X: Rows) -> Float[np.ndarray, "n d"]:
        """Return the points of the data's space that have these coordinates on the axes."""
        self._check_fitted()
        return np.asarray(X) @ self.components_ + self.mean_

    def scores(self, X: Rows) -> Scores:
        """Return ``p(z | x)`` of every row: factors of unit variance, with their uncertainty."""
        return self._scores(X)[0]
