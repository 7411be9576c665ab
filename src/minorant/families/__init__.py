"""Variational families, each an object in a file of its own; imported when first used.

A family of this package is asked for by its name or as an object with options; one of yours as an
object: a subclass of :class:`AbstractFamily`, or a density that is an
:class:`minorant.posteriors.AbstractMember`.
"""

from importlib import import_module
from typing import Any

from minorant._lazy import lazily

# The name of the family, and the class and module that it is.
BY_NAME = {
    "mode": ("Mode", "mode"),
    "mean-field": ("MeanField", "mean_field"),
    "exponential-family": ("ExponentialFamily", "exponential"),
    "low-rank": ("LowRank", "low_rank"),
    "full-rank": ("FullRank", "full_rank"),
    "pathfinder": ("Pathfinder", "pathfinder"),
    "batch-and-match": ("BatchAndMatch", "match"),
    "mixture": ("Mixture", "mixture"),
    "flow": ("Flow", "flow"),
}
# The families of posterior="auto", where a covariance of all unknowns fits and where it does not.
DENSE = ("mode", "full-rank", "mixture", "flow")
SPARSE = ("mean-field", "low-rank")

_NAMES = {
    **dict(BY_NAME.values()),
    "AbstractFamily": "base",
    "Climb": "base",
    "Given": "given",
    "Reached": "base",
}

__all__ = ["BY_NAME", "DENSE", "SPARSE", *_NAMES, "named"]
_get, _dir = lazily(__name__, _NAMES)


def named(name: str) -> Any:
    """The family of that name, with its default options.

    Raises:
        ValueError: where there is none.
    """
    if name not in BY_NAME:
        raise ValueError(f"posterior must be one of {('auto', *BY_NAME)}; got {name!r}.")
    kind, module = BY_NAME[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)()


__getattr__, __dir__ = _get, _dir
