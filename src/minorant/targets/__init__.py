"""Targets: log densities over the unknowns of one data set; imported when first used."""

from minorant._lazy import lazily

_NAMES = {
    "BayesTarget": "of_model",
    "Target": "log_density",
    "bayes": "of_model",
    "from_numpyro": "numpyro",
    "from_pymc": "pymc",
    "from_stan": "stan",
}

__all__ = list(_NAMES)
__getattr__, __dir__ = lazily(__name__, _NAMES)
