"""The options of the hidden Markov estimators that others do not have, or have otherwise."""

from __future__ import annotations

from typing import Any

from minorant.estimators.options import ARRAY, FLAG, NONE, Choice, Interval, Kind, Option

_LETTERS = Kind("a str of letters", lambda value: isinstance(value, str) and value.isalpha())
_NO_LETTERS = Kind("an empty str", lambda value: value == "")
_NUMBER = Interval(float, 0.0)


def _is_structure(value: Any) -> bool:
    return hasattr(value, "allowed") and hasattr(value, "begins")


_TABLE = (
    Option("n_components", 1, (Interval(int, 1),), "The number of states."),
    Option(
        "startprob_prior",
        1.0,
        (_NUMBER, ARRAY, NONE),
        "The concentration of a Dirichlet prior on the first state's probabilities; 1: no prior.",
    ),
    Option(
        "transmat_prior",
        1.0,
        (_NUMBER, ARRAY, NONE),
        "The concentration of a Dirichlet prior on each row of the transition; 1: no prior.",
    ),
    Option(
        "algorithm",
        "viterbi",
        (Choice(("viterbi", "map")),),
        "How `predict` finds states: the most probable path, or each row's most probable state.",
    ),
    Option("n_iter", 2000, (Interval(int, 1),), "The largest number of EM steps of one climb."),
    Option(
        "params",
        "",
        (_LETTERS, _NO_LETTERS),
        "The parameters that are learned, by hmmlearn's letters; the others keep their values.",
    ),
    Option(
        "init_params",
        "",
        (_LETTERS, _NO_LETTERS),
        "The parameters that get a start of their own; the others start from their attributes.",
    ),
    Option(
        "implementation",
        "auto",
        (Choice(("auto", "log", "scaling")),),
        "Taken for hmmlearn's sake and not used: scaled, with logarithms where these are needed.",
    ),
    Option(
        "structure",
        None,
        (Kind("a structure of `minorant.models`", _is_structure), NONE),
        "Which moves are allowed: LeftRight(), Allowed(moves), TiedRows(classes); None: all.",
    ),
    Option(
        "stationary",
        False,
        (FLAG,),
        "Whether sequences begin in the transition's own stationary distribution.",
    ),
    Option(
        "min_covar",
        None,
        (_NUMBER, NONE),
        "The floor of variances, in squared units of the data; None: 1e-6 of each column's.",
    ),
    Option(
        "means_prior", 0.0, (Interval(float), ARRAY), "The mean of a normal prior on the means."
    ),
    Option(
        "means_weight", 0.0, (_NUMBER,), "For how many rows the prior on the means counts; 0: none."
    ),
    Option(
        "covars_prior",
        None,
        (_NUMBER, ARRAY, NONE),
        "The scale of an inverse-Wishart prior on the covariances, a variance, one for each "
        "column, or a matrix; None: no prior.",
    ),
    Option(
        "covars_weight", 1.0, (_NUMBER,), "The degrees of freedom of the prior on the covariances."
    ),
    Option("lambdas_prior", 0.0, (_NUMBER, ARRAY), "How much a gamma prior adds to the counts."),
    Option(
        "lambdas_weight", 0.0, (_NUMBER, ARRAY), "For how many rows the prior on the rates counts."
    ),
    Option(
        "emissionprob_prior",
        1.0,
        (_NUMBER,),
        "The concentration of a Dirichlet prior on the categories of each state; 1: no prior.",
    ),
    Option(
        "n_features",
        None,
        (Interval(int, 1), NONE),
        "The number of categories; None: one more than the largest code.",
    ),
)

CHAIN_OPTIONS: dict[str, Option] = {option.name: option for option in _TABLE}
