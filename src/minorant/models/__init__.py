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
    "BayesianMixture": "bayesian_mixture",
    "DirichletWeights": "weight_priors",
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
    "RowFlow": "flow",
    "StateSpace": "state_space",
    "StickBreaking": "weight_priors",
    "ThreeParameter": "items",
    "TiedRows": "transitions",
    "TransitionLogits": "transition_logits",
    "TwoParameter": "items",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
