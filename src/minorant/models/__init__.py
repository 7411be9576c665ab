"""Latent variable models: prior times likelihood; imported when first used."""

from minorant._lazy import lazily

_NAMES = {
    "AbstractContinuousModel": "base",
    "AbstractDiscreteModel": "base",
    "AbstractExactModel": "base",
    "AbstractModel": "base",
    "AbstractTractableModel": "base",
    "AbstractTransition": "transitions",
    "Allowed": "transitions",
    "AnyTransition": "transitions",
    "FactorAnalysis": "factor_analysis",
    "GeneralizedPartialCredit": "items",
    "GradedResponse": "items",
    "HiddenMarkov": "hidden_markov",
    "ItemPrior": "items",
    "LatentTrait": "latent_trait",
    "LeftRight": "transitions",
    "MixedModel": "mixed",
    "Mixture": "mixture",
    "Model": "user",
    "PPCA": "factor_analysis",
    "PartialCredit": "items",
    "Rasch": "items",
    "StateSpace": "state_space",
    "ThreeParameter": "items",
    "TiedRows": "transitions",
    "TwoParameter": "items",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
