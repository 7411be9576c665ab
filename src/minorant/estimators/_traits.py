"""From answers to codes, from codes to a climb, and from a fit to scores and curves of items."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators._mixture import seed_of
from minorant.estimators.options import starts_of

if TYPE_CHECKING:
    from minorant.models import LatentTrait
    from minorant.result import Fit

ITEM_TYPES = ("auto", "Rasch", "2PL", "3PL", "graded", "gpcm")
_ERROR_PER_PERSON = 1e-6
_REFINEMENTS = 3


class Scores(NamedTuple):
    """Traits of persons (n, l) and their standard errors (n, l)."""

    trait: Float[np.ndarray, "n l"]
    standard_error: Float[np.ndarray, "n l"]


# Answers and groups


def counted(rows: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Which rows are learned from: those with a weight and an answer."""
    there = np.asarray(~np.isnan(rows).all(1))
    return there if weights is None else there & (weights > 0)


def categories(rows: Float[np.ndarray, "n d"], names: Sequence[str]) -> list[np.ndarray]:
    """The answers that occur, item by item.

    Raises:
        ValueError: for an answer that is no whole number, or an item that all answered alike.
    """
    found = []
    for j, name in enumerate(names):
        seen = np.unique(rows[~np.isnan(rows[:, j]), j])
        wrong = seen[seen != np.round(seen)]
        if len(wrong):
            raise ValueError(
                f"Item {name!r} holds {wrong[0]:g}: answers must be whole numbers, in the order of "
                "the answers' meaning. Round or recode the column."
            )
        if len(seen) < 2:
            answer = "by nobody" if len(seen) == 0 else f"{seen[0]:g} by all"
            raise ValueError(
                f"Item {name!r} was answered {answer}: its difficulty cannot be estimated. Drop it."
            )
        found.append(seen)
    return found


def coded(
    rows: Float[np.ndarray, "n d"], known: list[np.ndarray], names: Sequence[str]
) -> Float[np.ndarray, "n d"]:
    """Answers as 0, 1, 2, ...; NaN stays.

    Raises:
        ValueError: for an answer that did not occur in `fit`.
    """
    codes = np.full(rows.shape, np.nan)
    for j, seen in enumerate(known):
        there = ~np.isnan(rows[:, j])
        place = np.searchsorted(seen, rows[there, j]).clip(0, len(seen) - 1)
        strange = seen[place] != rows[there, j]
        if strange.any():
            row = int(np.flatnonzero(there)[np.argmax(strange)])
            raise ValueError(
                f"Item {names[j]!r} holds {rows[row, j]:g} in row {row}, an answer that did not "
                f"occur in fit ({', '.join(f'{s:g}' for s in seen)} did). Write NaN if unknown."
            )
        codes[there, j] = place
    return codes


def grouped(groups: Any, n: int) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """Names of the groups, in order, and every person's number."""
    if groups is None:
        return np.array(["all"], dtype=object), np.zeros(n, dtype=int)
    array = _vector(groups, n)
    names, numbers = np.unique(array, return_inverse=True)
    return names, numbers.ravel()


def numbered(groups: Any, known: np.ndarray, n: int) -> Int[np.ndarray, " n"]:
    """Every person's number among the known groups; 0 without groups.

    Raises:
        ValueError: for a group that did not occur in `fit`.
    """
    if groups is None:
        return np.zeros(n, dtype=int)
    array = _vector(groups, n)
    place = {name: index for index, name in enumerate(known.tolist())}
    for row, name in enumerate(array.tolist()):
        if name not in place:
            raise ValueError(f"groups holds {name!r} in row {row}, which did not occur in fit.")
    return np.array([place[name] for name in array.tolist()])


def _vector(groups: Any, n: int) -> np.ndarray:
    array = np.asarray(groups)
    if array.shape != (n,):
        raise ValueError(f"groups must have one entry per row, shape ({n},); got {array.shape}.")
    return array


def inputs_of(model: LatentTrait, group: Int[np.ndarray, " n"]) -> np.ndarray | None:
    """Groups as the model takes them."""
    return None if model.n_groups == 1 else group[:, None].astype(float)


# The climb


def climbed(options: Any, codes: np.ndarray, weights: np.ndarray | None, group: np.ndarray) -> Fit:
    """The fit; with automatic points the rule is doubled until that changes next to nothing."""
    from minorant._config import precision

    with precision(np.dtype(np.float64)):
        starts = starts_of(options.n_init)
        answer = _fit(options, _model(options, codes, group), codes, weights, group, starts)
        if options.points != "auto":
            return answer
        total = float(len(codes) if weights is None else weights.sum())
        for _ in range(_REFINEMENTS):
            if answer.model.irregular(answer.names):  # no rule is fine enough for a Heywood case
                break
            if quadrature_error(answer, codes, weights, group) <= _ERROR_PER_PERSON * total:
                break
            answer = _fit(options, answer.model.refined(), codes, weights, group)
    return answer


def _fit(  # noqa: PLR0913
    options: Any,
    model: Any,
    codes: np.ndarray,
    weights: np.ndarray | None,
    group: np.ndarray,
    starts: Any = None,
) -> Fit:
    from minorant.data.tables import NamedMatrix
    from minorant.fitting import fit
    from minorant.solvers import QuasiNewton

    # Traits that can almost rotate make EM slow: 215 passes against 38 (three traits, 12 items).
    rotates = model.n_traits > 1 and model.pattern is None
    return fit(
        model,
        NamedMatrix(codes, tuple(options._names(codes))),
        weights=weights,
        inputs=inputs_of(model, group),
        solver=QuasiNewton(options.tol) if rotates else None,
        starts=starts,
        tolerance=options.tol,
        max_steps=max(options.max_iter, 1),
        random_state=seed_of(options.random_state),
        progress=bool(options.verbose),
    )


def _model(options: Any, codes: np.ndarray, group: np.ndarray) -> LatentTrait:
    from minorant.models import LatentTrait
    from minorant.posteriors import Adaptive

    names = options._names(codes)
    tops = np.nanmax(codes, axis=0)
    types = _types(options.item_type, names)
    items = [_structure(kind, int(top), options) for kind, top in zip(types, tops, strict=True)]
    rule = None if options.points == "auto" else Adaptive(int(options.points))
    return LatentTrait(
        items,
        n_traits=options.n_traits,
        n_groups=int(group.max()) + 1,
        pattern=options.pattern,
        rule=rule,
    )


def _types(item_type: Any, names: Sequence[str]) -> list[str]:
    """One type for every item.

    Raises:
        ValueError: for an unknown type or item, or a wrong number of types.
    """
    if isinstance(item_type, str):
        types = [item_type] * len(names)
    elif isinstance(item_type, Mapping):
        place = {name: j for j, name in enumerate(names)}
        types = ["auto"] * len(names)
        for key, kind in item_type.items():
            j = place.get(str(key), key if isinstance(key, int) else -1)
            if not 0 <= j < len(names):
                raise ValueError(f"item_type names {key!r}, which is no item: {list(names)}.")
            types[j] = kind
    else:
        types = list(item_type)
    if len(types) != len(names):
        raise ValueError(f"item_type must have one entry per item, {len(names)}; got {len(types)}.")
    strange = [kind for kind in types if kind not in ITEM_TYPES]
    if strange:
        raise ValueError(f"item_type must be among {ITEM_TYPES}; got {strange[0]!r}.")
    return types


def _structure(kind: str, top: int, options: Any) -> Any:
    from minorant import models

    if kind == "auto":
        kind = "2PL" if top == 1 else "graded"
    slope = None if options.slope_prior is None else tuple(map(float, options.slope_prior))
    guessing = options.guessing_prior
    prior = models.ItemPrior(slope=slope) if slope else None
    if kind == "3PL":
        beta = None if guessing is None else tuple(map(float, guessing))
        return models.ThreeParameter(prior=models.ItemPrior(slope=slope, guessing=beta))
    if kind == "Rasch":
        return models.PartialCredit()
    plain = {
        "2PL": models.TwoParameter,
        "graded": models.GradedResponse,
        "gpcm": models.GeneralizedPartialCredit,
    }
    return plain[kind](prior=prior)


def quadrature_error(
    answer: Fit, codes: np.ndarray, weights: np.ndarray | None, group: np.ndarray
) -> float:
    """By how much doubling the rule changes ``log p(X)``, in nats."""
    from minorant.evidence import log_evidence

    w = np.ones(len(codes)) if weights is None else weights
    finer = answer._replace(
        model=answer.model.refined(), standardised=answer.standardised.refined()
    )
    found = w @ log_evidence(finer, codes, inputs=inputs_of(answer.model, group))
    return float(abs(found - answer.bound))


# Scores


def expected_traits(answer: Fit, codes: np.ndarray, group: np.ndarray) -> Scores:
    """The posterior's means and deviations."""
    from minorant.evidence import posterior

    found: Any = posterior(answer, codes, inputs=inputs_of(answer.model, group))
    variance = np.diagonal(found.covariance, axis1=1, axis2=2)
    return Scores(np.asarray(found.mean, float), np.sqrt(variance))


def most_probable_traits(answer: Fit, codes: np.ndarray, group: np.ndarray) -> Scores:
    """The posterior's modes, and deviations from the curvature there."""
    from minorant.evidence.scoring import arranged, mapped

    scored = arranged(answer, codes, inputs=inputs_of(answer.model, group))
    mode, precision = mapped(answer, scored, _modes())
    variance = np.diagonal(np.linalg.inv(precision), axis1=1, axis2=2)
    return Scores(np.asarray(mode, float), np.sqrt(variance))


@functools.cache
def _modes() -> Any:
    """The compiled search for modes; JAX is imported when it is first asked for."""
    import jax

    from minorant.posteriors import Adaptive

    def found(model: Any, rows: Any) -> Any:
        one = model.integrated(rows, Adaptive(1))
        return one.mode, one.precision

    return jax.jit(lambda model, source: source.map(found, model))


def reliability(found: Scores, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " l"]:
    """``var(EAP) / (var(EAP) + mean(SE^2))``, trait by trait."""
    mean = np.average(found.trait, axis=0, weights=weights)
    spread = np.average((found.trait - mean) ** 2, axis=0, weights=weights)
    return spread / (spread + np.average(found.standard_error**2, axis=0, weights=weights))


# Items


def as_traits(traits: Any, l: int) -> Float[np.ndarray, "s l"]:
    """Traits as (s, l)."""
    array = np.asarray(traits, dtype=float)
    array = array[:, None] if array.ndim == 1 and l == 1 else array
    if array.ndim != 2 or array.shape[1] != l:
        raise ValueError(f"traits must have {l} columns, one per trait; got shape {array.shape}.")
    return array


def curves(model: LatentTrait, traits: Float[np.ndarray, "s l"]) -> list[np.ndarray]:
    """Probabilities of the answers to every item, (s, m) each."""
    return [np.exp(logs) for logs in _per_item(model, traits, "log_probability")]


def information(model: LatentTrait, traits: Float[np.ndarray, "s l"]) -> Float[np.ndarray, "s d"]:
    """The trace of every item's information."""
    parts = _per_item(model, traits, "information")
    return np.stack([np.trace(part, axis1=1, axis2=2) for part in parts], axis=1)


def _per_item(model: LatentTrait, traits: np.ndarray, question: str) -> list[np.ndarray]:
    """A question to every stack, its (s, d, ...) answers taken apart in the table's order."""
    from minorant._config import precision

    with precision(np.dtype(np.float64)):
        found = [np.asarray(part) for part in _asked(question)(model.items, traits)]
    pairs = zip([c for c, _ in model._stacks()], found, strict=True)
    apart = {j: part[:, i] for columns, part in pairs for i, j in enumerate(columns)}
    return [apart[j] for j in range(len(apart))]


@functools.cache
def _asked(question: str) -> Any:
    """The compiled question to every stack."""
    import jax

    return jax.jit(lambda items, z: [getattr(item, question)(z) for item in items])


def prior_masses(model: LatentTrait) -> tuple[np.ndarray, np.ndarray]:
    """A grid of traits and its prior mass in the first group."""
    from minorant.posteriors import Grid

    unit, _ = Grid({1: 61, 2: 31, 3: 15}[model.n_traits]).nodes(model.n_traits)
    mass = np.exp(-0.5 * (unit**2).sum(1))
    root = np.linalg.cholesky(np.asarray(model.covariance, float)[0])
    return np.asarray(model.mean, float)[0] + unit @ root.T, mass / mass.sum()


def parameters_per_item(model: LatentTrait) -> list[int]:
    """How many parameters of each item are learned."""
    from minorant._parameters import count_parameters

    counts = {}
    for columns, item in model._stacks():
        counts.update(dict.fromkeys(columns, count_parameters(item) // len(columns)))
    return [counts[j] for j in range(len(counts))]


def drawn(answer: Fit, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and traits of n persons."""
    import jax

    from minorant._config import precision

    with precision(np.dtype(np.float64)):
        traits, codes = answer.model.sample(jax.random.key(seed), n)
        return np.asarray(codes), np.asarray(traits)
