"""Distributions over latents: exact posteriors and families; imported when first used."""

from minorant._lazy import lazily

_NAMES = {
    "AbstractMember": "members",
    "AbstractPosterior": "base",
    "Adaptive": "quadrature",
    "ByDevice": "_recursion",
    "Categorical": "categorical",
    "ChainPosterior": "chain",
    "Encoder": "amortised",
    "Flow": "flow",
    "Gaussian": "gaussian",
    "GaussianChain": "kalman",
    "Grid": "quadrature",
    "PerRow": "amortised",
    "Product": "product",
    "ParallelScan": "_recursion",
    "Quadrature": "quadrature",
    "Sequential": "_recursion",
    "Truncated": "truncated",
    "Truncation": "truncated",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
