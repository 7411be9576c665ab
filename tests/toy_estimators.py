"""Small estimators built on `minorant.estimators._base`, for the tests of that base."""

from __future__ import annotations

import numpy as np

from minorant.estimators._base import Density, Estimator, Transformer
from minorant.estimators.options import DEFAULTS


class DiagonalGaussian(Density):
    """One Gaussian with a diagonal covariance, missing entries left out."""

    def __init__(self, reg_covar=1e-6, *, tol=DEFAULTS["tol"], random_state=None):
        """Store the options."""
        self.reg_covar = reg_covar
        self.tol = tol
        self.random_state = random_state

    def fit(self, X, y=None, sample_weight=None):
        """Fit by weighted moments."""
        X, weights = self._begin_fit(X, sample_weight)
        weights = np.ones(len(X), X.dtype) if weights is None else weights
        seen = ~np.isnan(X) * weights[:, None]
        total = np.maximum(seen.sum(axis=0), np.finfo(X.dtype).tiny)
        self.mean_ = (np.where(np.isnan(X), 0, X) * seen).sum(axis=0) / total
        squares = np.where(np.isnan(X), 0, (X - self.mean_) ** 2)
        self.variance_ = (squares * seen).sum(axis=0) / total + X.dtype.type(self.reg_covar)
        return self

    def score_samples(self, X):
        """Return the log density of each row."""
        X = self._read(X)
        terms = (X - self.mean_) ** 2 / self.variance_ + np.log(2 * np.pi * self.variance_)
        return -0.5 * np.where(np.isnan(X), 0, terms).sum(axis=1)

    def predict(self, X):
        """Return component 0 for each row."""
        return np.zeros(len(self._read(X)), dtype=np.int64)

    def predict_proba(self, X):
        """Return certainty for each row."""
        return np.ones((len(self._read(X)), 1))


class Whitener(Transformer, DiagonalGaussian):
    """The same, and rows in its standard coordinates."""

    def fit(self, X, y=None, sample_weight=None):
        """Fit by weighted moments."""
        super().fit(X, sample_weight=sample_weight)
        self._n_features_out = self.n_features_in_
        return self

    def transform(self, X):
        """Return the rows in standard coordinates, 0 where missing."""
        X = self._read(X)
        return np.where(np.isnan(X), 0, (X - self.mean_) / np.sqrt(self.variance_))


class Complete(DiagonalGaussian):
    """The same, without missing entries."""

    _accepts_missing = False


class Wrapper(Estimator):
    """An estimator with another inside."""

    def __init__(self, inner=None):
        """Store the inner one."""
        self.inner = inner

    def fit(self, X, y=None):
        """Fit nothing."""
        return self


def fitted(X, **options):
    return DiagonalGaussian(**options).fit(X)
