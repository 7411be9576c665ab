"""Distributions over latents: exact posteriors and families; imported when first used."""

from minorant._lazy import lazily

_NAMES = {
    "AbstractPosterior": "base",
    "Adaptive": "quadrature",
    "Categorical": "categorical",
    "ChainPosterior": "chain",
    "Flow": "flow",
    "Gaussian": "gaussian",
    "GaussianChain": "kalman",
    "Grid": "quadrature",
    "Quadrature": "quadrature",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
