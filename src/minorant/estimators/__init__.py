"""Estimators in scikit-learn's manner: `fit`, `predict`, `score` on arrays and data frames.

Importing this package imports neither scikit-learn nor JAX: JAX comes with the first fit. Each
estimator is imported when it is first used.
"""

from minorant._lazy import lazily

_NAMES = {
    "BayesianGaussianMixture": "bayesian_gaussian_mixture",
    "CategoricalHMM": "hidden_markov",
    "ClassProfiles": "latent_class",
    "FactorAnalysis": "factor_analysis",
    "FlowDensity": "flow_density",
    "GaussianHMM": "gaussian_hmm",
    "GaussianMixture": "gaussian_mixture",
    "GoodnessOfFit": "latent_class",
    "LatentClassAnalysis": "latent_class",
    "LatentTrait": "latent_trait",
    "FixedEffects": "mixed_model",
    "ItemFit": "_item_fit",
    "MixedModel": "mixed_model",
    "MixtureModel": "mixture_model",
    "PPCA": "factor_analysis",
    "PoissonHMM": "hidden_markov",
    "Scores": "factor_analysis",
    "StateSpace": "state_space",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
