"""From codes of answers to a climb, and from a fit to scores and curves of items."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant.estimators._climb import climbed, within
from minorant.estimators._persons import Persons
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


# The climb


def climb(options: Any, persons: Persons, checkpoint: Any = None) -> Fit:
    """The fit; with automatic points the rule is doubled until that changes next to nothing.

    The climb with the finer rule is kept in a folder of the checkpoint.
    """
    starts = starts_of(options.n_init)
    answer = _fit(options, lambda: _model(options, persons), persons, checkpoint, starts)
    if options.points != "auto":
        return answer
    for turn in range(_REFINEMENTS):
        if answer.model.irregular(answer.names):  # no rule is fine enough for a Heywood case
            break
        if quadrature_error(answer, persons) <= _ERROR_PER_PERSON * float(answer.n_rows):
            break
        place = within(checkpoint, f"finer-{turn + 1}")
        answer = _fit(options, answer.model.refined, persons, place)
    return answer


def _fit(
    options: Any, model: Callable[[], Any], persons: Persons, checkpoint: Any, starts: Any = None
) -> Fit:
    from minorant.solvers import QuasiNewton

    # Traits that can almost rotate make EM slow: 215 passes against 38 (three traits, 12 items).
    rotates = options.n_traits > 1 and options.pattern is None
    held = persons.chunks is None
    return climbed(
        options,
        model,
        options._named(persons.codes) if held else persons.chunks,
        checkpoint,
        weights=persons.weights,
        inputs=persons.inputs() if held else None,
        solver=QuasiNewton(options.tol) if rotates else None,
        starts=starts,
        tolerance=options.tol,
    )


def _model(options: Any, persons: Persons) -> LatentTrait:
    from minorant.models import LatentTrait
    from minorant.posteriors import Adaptive

    names = options._item_names()
    types = _types(options.item_type, names)
    tops = [len(seen) - 1 for seen in options.categories_]
    items = [_structure(kind, top, options) for kind, top in zip(types, tops, strict=True)]
    rule = None if options.points == "auto" else Adaptive(int(options.points))
    return LatentTrait(
        items,
        n_traits=options.n_traits,
        n_groups=persons.n_groups,
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


def quadrature_error(answer: Fit, persons: Persons) -> float:
    """By how much doubling the rule changes ``log p(X)``, in nats."""
    finer = answer._replace(
        model=answer.model.refined(), standardised=answer.standardised.refined()
    )
    found = sum(part.ones() @ log_density(finer, part) for part in persons.tables())
    return float(abs(found - answer.bound))


def log_density(answer: Fit, persons: Persons) -> Float[np.ndarray, " n"]:
    """``log p(x)`` of every person."""
    from minorant.evidence import log_evidence

    parts = persons.tables()
    return np.concatenate([log_evidence(answer, p.codes, inputs=p.inputs()) for p in parts])


# Scores


def expected_traits(answer: Fit, persons: Persons) -> Scores:
    """The posterior's means and deviations."""
    from minorant.evidence import posterior

    found: Any = [posterior(answer, p.codes, inputs=p.inputs()) for p in persons.tables()]
    mean = np.concatenate([np.asarray(part.mean, float) for part in found])
    covariance = np.concatenate([np.asarray(part.covariance, float) for part in found])
    return Scores(mean, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)))


def most_probable_traits(answer: Fit, persons: Persons) -> Scores:
    """The posterior's modes, and deviations from the curvature there."""
    from minorant.evidence.scoring import arranged, mapped

    found = []
    for part in persons.tables():
        scored = arranged(answer, part.codes, inputs=part.inputs())
        found.append(mapped(answer, scored, _modes()))
    mode, precision = (np.concatenate(parts) for parts in zip(*found, strict=True))
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


def reliability(answer: Fit, persons: Persons) -> Float[np.ndarray, " l"]:
    """``var(EAP) / (var(EAP) + mean(SE^2))``, trait by trait."""
    from minorant.data.summary import Look

    look = error = None
    for part in persons.tables():
        part = part.answered()
        found, weights = expected_traits(answer, part), part.ones()
        own, share = Look.at(found.trait, weights), weights @ found.standard_error**2
        look = own if look is None else look.joined(own)
        error = share if error is None else error + share
    assert look is not None  # there are persons
    return look.square / (look.square + error)


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
