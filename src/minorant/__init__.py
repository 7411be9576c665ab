"""Latent variable models, climbed by lower bounds on log p(x) and judged by how tight they are.

Start with ``minorant.fit(model, data)``, or with the estimators in ``minorant.estimators``.
Submodules and names are imported when first used: ``import minorant`` costs next to nothing.
"""

from importlib import import_module as _import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "fit": "fitting",
    "resume": "fitting",
    "check": "row_check",
    "chunks": "data.open_chunks",
    "compare": "comparison",
    "load": "saving",
    "save": "saving",
    "status": "checkpoints.status",
    "Fit": "result",
    "Evidence": "result",
    "Estimate": "result",
    "Outcome": "result",
    "FitError": "result",
    "Hold": "_parameters",
    "Component": "components.custom",
    "stacked": "components.custom",
    "real": "_parameters",
    "positive": "_parameters",
    "unit_interval": "_parameters",
    "simplex": "_parameters",
    "constant": "_parameters",
    "BayesianMixture": "models",
    "Mixture": "models",
    "Model": "models",
    "HiddenMarkov": "models",
    "EM": "solvers",
    "Online": "online",
    "Checkpoint": "checkpoints.place",
    "Encoder": "posteriors",
    "QuasiNewton": "solvers",
    "Starts": "solvers.starts",
    "Target": "targets",
    "bayes": "targets",
    "BayesianGaussianMixture": "estimators",
    "CategoricalHMM": "estimators",
    "FlowDensity": "estimators",
    "GaussianHMM": "estimators",
    "GaussianMixture": "estimators",
    "LatentClassAnalysis": "estimators",
    "MixtureModel": "estimators",
    "PoissonHMM": "estimators",
}
# A model and an estimator go by these names: the user says which.
_TWICE = ("FactorAnalysis", "LatentTrait", "MixedModel", "PPCA", "StateSpace")
_MODULES = (
    "bounds", "components", "data", "datasets", "estimators", "evidence", "families", "models",
    "plots", "posteriors", "saving", "solvers", "targets", "unknowns",
)  # fmt: skip

__all__ = [*_NAMES, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _NAMES:
        return getattr(_import_module(f"minorant.{_NAMES[name]}"), name)
    if name in _MODULES:
        return _import_module(f"minorant.{name}")
    if name in _TWICE:
        raise AttributeError(
            f"minorant.{name} could be two things: take minorant.models.{name}, for minorant.fit, "
            f"or minorant.estimators.{name}, in scikit-learn's manner."
        )
    raise AttributeError(f"module 'minorant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
