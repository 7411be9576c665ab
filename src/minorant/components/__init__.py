"""Observation densities p(x | k), with k stacked on the first axis; imported when first used."""

from importlib import import_module as _import_module
from typing import Any

_NAMES = {
    "Bernoulli": "bernoulli",
    "BetaPrior": "priors",
    "Blocks": "blocks",
    "Categorical": "categorical",
    "Component": "custom",
    "Custom": "custom",
    "Diagonal": "scalar_covariance",
    "Dirichlet": "priors",
    "Exponential": "exponential",
    "Full": "matrix_covariance",
    "Gamma": "gamma",
    "GammaPrior": "priors",
    "Gaussian": "gaussian",
    "InverseWishart": "priors",
    "LogDensity": "priors",
    "LogNormal": "log_normal",
    "NegativeBinomial": "negative_binomial",
    "Poisson": "poisson",
    "Spherical": "scalar_covariance",
    "StudentT": "student_t",
    "Tied": "matrix_covariance",
    "VonMises": "von_mises",
    "stacked": "custom",
}

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    """Import a component when it is first used."""
    if name in _NAMES:
        return getattr(_import_module(f"minorant.components.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'minorant.components' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
