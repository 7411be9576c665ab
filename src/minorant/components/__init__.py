"""Observation densities p(x | k), with k stacked on the first axis; imported when first used."""

from minorant._lazy import lazily

_NAMES = {
    "BayesianGaussian": "bayesian_gaussian",
    "Bernoulli": "bernoulli",
    "BetaPrior": "priors",
    "Blocks": "blocks",
    "Categorical": "categorical",
    "Component": "custom",
    "Custom": "custom",
    "Diagonal": "scalar_covariance",
    "Dirichlet": "priors",
    "Exponential": "exponential",
    "FactorAnalyser": "factor_analyser",
    "Full": "matrix_covariance",
    "Gamma": "gamma",
    "GammaPrior": "priors",
    "Gaussian": "gaussian",
    "InverseWishart": "priors",
    "LogDensity": "priors",
    "LogNormal": "log_normal",
    "NegativeBinomial": "negative_binomial",
    "NormalWishart": "normal_wishart",
    "Poisson": "poisson",
    "Spherical": "scalar_covariance",
    "StudentT": "student_t",
    "Tied": "matrix_covariance",
    "VonMises": "von_mises",
    "stacked": "custom",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
