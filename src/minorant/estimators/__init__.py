"""Estimators in scikit-learn's manner: `fit`, `predict`, `score` on arrays and data frames.

Importing this package imports neither scikit-learn nor JAX: JAX comes with the first fit.
"""

from minorant.estimators.gaussian_mixture import GaussianMixture
from minorant.estimators.latent_class import ClassProfiles, GoodnessOfFit, LatentClassAnalysis
from minorant.estimators.mixture_model import MixtureModel

__all__ = [
    "ClassProfiles",
    "GaussianMixture",
    "GoodnessOfFit",
    "LatentClassAnalysis",
    "MixtureModel",
]
