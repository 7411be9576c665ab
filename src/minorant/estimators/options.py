"""Every option of the estimators, declared once: name, default, range and one sentence.

Estimators take their defaults and their checks from here, the command line its help, the
documentation its tables. To change a default, a range or a list of choices, edit the table at
the end of this file, and nothing else.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np

Value: TypeAlias = Any  # what an option holds: its own type
Closed = Literal["left", "right", "both", "neither"]


@dataclass(frozen=True)
class Interval:
    """The numbers of one kind, `int` or `float`, between two bounds (`nan` lies in none)."""

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    closed: Closed = "left"

    def accepts(self, value: object) -> bool:
        """Tell whether the value is of the kind and lies between the bounds."""
        number = numbers.Integral if self.kind is int else numbers.Real
        if not isinstance(value, number) or isinstance(value, bool | np.bool_):
            return False
        value = cast(float, value)
        above = value >= self.low if self.closed in ("left", "both") else value > self.low
        below = value <= self.high if self.closed in ("right", "both") else value < self.high
        return bool(above and below)

    def __str__(self) -> str:
        """Return the range in words, for example `a float in [0, inf)`."""
        article = "an int" if self.kind is int else "a float"
        left = "[" if self.closed in ("left", "both") else "("
        right = "]" if self.closed in ("right", "both") else ")"
        return f"{article} in {left}{self.low:.12g}, {self.high:.12g}{right}"


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    values: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Tell whether the value is one of the words."""
        return isinstance(value, str) and value in self.values

    def __str__(self) -> str:
        """Return the words, for example `a str among {'full', 'tied'}`."""
        return f"a str among {{{', '.join(map(repr, self.values))}}}"


@dataclass(frozen=True)
class Kind:
    """What is told by a test and named by a phrase."""

    phrase: str
    test: Callable[[object], bool]

    def accepts(self, value: object) -> bool:
        """Tell whether the value passes the test."""
        return self.test(value)

    def __str__(self) -> str:
        """Return the phrase."""
        return self.phrase


def _is_array_like(value: object) -> bool:
    if isinstance(value, str | bytes | dict | set) or np.isscalar(value):
        return False
    return any(hasattr(value, name) for name in ("__len__", "shape", "__array__"))


FLAG = Kind("a bool", lambda value: isinstance(value, bool | np.bool_))
NONE = Kind("None", lambda value: value is None)
ARRAY = Kind("an array-like", _is_array_like)
GENERATOR = Kind(
    "a numpy RandomState or Generator",
    lambda value: isinstance(value, np.random.RandomState | np.random.Generator),
)
SEED = Interval(int, 0, 2**32 - 1, "both")

Constraint = Interval | Choice | Kind


@dataclass(frozen=True)
class Option:
    """One constructor parameter.

    Attributes:
        name: The name of the parameter.
        default: The value that it has when the user gives none.
        constraints: What it may be; one of them must accept the value.
        sentence: What it does, for the help and the documentation.
    """

    name: str
    default: Value
    constraints: tuple[Constraint, ...]
    sentence: str

    @property
    def range(self) -> str:
        """What the option may be, in words."""
        *others, last = map(str, self.constraints)
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def choices(self) -> tuple[str, ...]:
        """The words among which the option is chosen, if it is."""
        words = (one.values for one in self.constraints if isinstance(one, Choice))
        return tuple(word for values in words for word in values)

    def complaint(self, value: object, owner: str) -> str | None:
        """Return the sentence that refuses the value, or None where the value is accepted."""
        if any(one.accepts(value) for one in self.constraints):
            return None
        shown = repr(value)
        shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
        return f"The {self.name!r} parameter of {owner} must be {self.range}. Got {shown} instead."


_TABLE = (
    Option("n_components", 1, (Interval(int, 1),), "The number of components."),
    Option(
        "covariance_type",
        "full",
        (Choice(("full", "tied", "diag", "spherical")),),
        "The structure of the covariances: one full matrix per component, one matrix shared by "
        "all, one variance per column and component, or one variance per component.",
    ),
    Option(
        "tol",
        1e-7,
        (Interval(float, 0.0),),
        "The climb stops when less than this, in nats per row, is estimated to be left to gain.",
    ),
    Option(
        "reg_covar",
        "auto",
        (Interval(float, 0.0), Choice(("auto",))),
        "The floor: every covariance stays at or above this times the identity, in squared units "
        "of the data; 'auto': 1e-6 of each column's variance.",
    ),
    Option("max_iter", 2000, (Interval(int, 0),), "The largest number of steps of one climb."),
    Option(
        "n_init",
        "auto",
        (Interval(int, 1), Choice(("auto",))),
        "The number of starts, of which the best climb is kept; 'auto': twelve, the worse dropped "
        "early.",
    ),
    Option(
        "init_params",
        "auto",
        (Choice(("auto", "kmeans", "k-means++", "random", "random_from_data")),),
        "How the responsibilities of the first step are found; 'auto': several ways in turn.",
    ),
    Option(
        "weights_init",
        None,
        (ARRAY, NONE),
        "The weights of the components at the start, of shape (k,); None: from init_params.",
    ),
    Option(
        "means_init",
        None,
        (ARRAY, NONE),
        "The means of the components at the start, of shape (k, d); None: from init_params.",
    ),
    Option(
        "precisions_init",
        None,
        (ARRAY, NONE),
        "The inverse covariances at the start, in the shape that covariance_type gives them; "
        "None: from init_params.",
    ),
    Option(
        "random_state",
        None,
        (SEED, GENERATOR, NONE),
        "The seed of everything that is drawn; an int gives the same answer every time.",
    ),
    Option(
        "warm_start",
        False,
        (FLAG,),
        "Whether a call of fit goes on from the answer of the call before it.",
    ),
    Option(
        "verbose",
        0,
        (Interval(int, 0), FLAG),
        "0: silent; above: a bar with the bound, the gain per row and the time left.",
    ),
    Option(
        "verbose_interval",
        10,
        (Interval(int, 1),),
        "Taken for scikit-learn's sake and not used: the bar redraws itself.",
    ),
    Option(
        "acceleration",
        "squarem",
        (Choice(("anderson", "squarem")), NONE),
        "How the steps are extrapolated, never below the plain step's bound; None: plain steps.",
    ),
    Option(
        "degenerate",
        "floor",
        (Choice(("floor", "reseed", "merge")),),
        "What is done with a component that collapses: hold its variance at a floor, start it "
        "again elsewhere, or merge it into its neighbour.",
    ),
    Option(
        "truncated",
        None,
        (Interval(int, 1), NONE),
        "With hundreds of components: how many of them each row is scored under, on average, which "
        "makes the bound a lower one and steps quicker; None: all.",
    ),
    Option(
        "weight_concentration",
        None,
        (Interval(float, 1.0), ARRAY, NONE),
        "The concentration of a Dirichlet prior on the weights, one number or one per "
        "component, at least 1; None: no prior.",
    ),
    Option(
        "weight_concentration_prior_type",
        "dirichlet_process",
        (Choice(("dirichlet_distribution", "dirichlet_process")),),
        "The prior on the weights: a Dirichlet process, or a Dirichlet density of n_components.",
    ),
    Option(
        "weight_concentration_prior",
        None,
        (Interval(float, 0.0, closed="neither"), ARRAY, NONE),
        "The concentration of that prior, above 0; None: 1 / n_components.",
    ),
    Option(
        "mean_precision_prior",
        None,
        (Interval(float, 0.0, closed="neither"), NONE),
        "How many rows the prior mean is worth, above 0; None: 1.",
    ),
    Option(
        "mean_prior",
        None,
        (ARRAY, NONE),
        "The prior mean, of shape (d,); None: the mean of the rows.",
    ),
    Option(
        "degrees_of_freedom_prior",
        None,
        (Interval(float, 0.0, closed="neither"), NONE),
        "How many rows the prior covariance is worth; None: the number of columns.",
    ),
    Option(
        "covariance_prior",
        None,
        (Interval(float, 0.0, closed="neither"), Choice(("auto",)), ARRAY, NONE),
        "The scale of an inverse-Wishart prior on the covariances, one variance, one per column "
        "or a matrix; 'auto': from the data's own variances; None: no prior.",
    ),
    Option(
        "category_concentration",
        None,
        (Interval(float, 1.0), NONE),
        "The concentration of a Dirichlet prior on the probabilities of categories, at least 1; "
        "None: no prior.",
    ),
    Option(
        "components",
        "auto",
        (Choice(("auto",)), Kind("a dict", lambda value: isinstance(value, Mapping))),
        "How columns are described: 'auto' infers it, a dict from column to the name of a "
        "component overrides that.",
    ),
    Option(
        "rotation",
        None,
        (Choice(("varimax", "quartimax", "oblimin")), NONE),
        "How the factors are turned to simple structure; None: the canonical rotation.",
    ),
    Option(
        "noise_variance_init",
        None,
        (ARRAY, NONE),
        "The noise variances at the start, of shape (d,); None: from multiple correlations.",
    ),
    Option("copy", True, (FLAG,), "Taken for scikit-learn's sake; the rows are never changed."),
    Option(
        "svd_method",
        "randomized",
        (Choice(("lapack", "randomized")),),
        "Taken for scikit-learn's sake and not used: nothing is decomposed row by row.",
    ),
    Option(
        "iterated_power",
        3,
        (Interval(int, 0),),
        "Taken for scikit-learn's sake and not used, as svd_method.",
    ),
    Option(
        "handle_unknown",
        "error",
        (Choice(("error", "missing")),),
        "What a category is that was not there in fit: an error, or a missing cell.",
    ),
    Option(
        "fixed",
        None,
        (Kind("a dict", lambda value: isinstance(value, Mapping)), NONE),
        "What keeps its initial value: names among weights, means and covariances, each with True "
        "or one flag per component; None: nothing.",
    ),
)

# Of models whose latent is no partition of the rows.
N_INIT = Option(
    "n_init",
    "auto",
    (Interval(int, 1), Choice(("auto",))),
    "The number of starts, of which the best climb is kept: the first is computed from the rows, "
    "the others are moved from it at random; 'auto': one.",
)

OPTIONS: dict[str, Option] = {option.name: option for option in _TABLE}
# The defaults alone, for the signatures of constructors: `tol: float = DEFAULTS["tol"]`.
DEFAULTS: dict[str, Value] = {option.name: option.default for option in _TABLE}


def starts_of(n_init: int | str) -> Any:
    """What `minorant.fit` takes for `n_init`; 'auto' leaves it to the model."""
    from minorant.solvers.starts import Starts

    return None if n_init == "auto" else Starts(int(n_init))
