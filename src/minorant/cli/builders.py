"""The models beyond plain mixtures that ``minorant fit`` knows, built from what was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minorant.cli import flows
from minorant.cli.arguments import Request
from minorant.cli.faces import Face, Kinds, Numbers, named, optional
from minorant.cli.sequences import steps_of
from minorant.data.columns import Columns, infer
from minorant.data.tables import as_weights

if TYPE_CHECKING:
    import pyarrow as pa

    from minorant.result import Fit

ITEMS = {
    "1pl": "Rasch",
    "2pl": "TwoParameter",
    "3pl": "ThreeParameter",
    "graded": "GradedResponse",
    "partial-credit": "PartialCredit",
    "generalized-partial-credit": "GeneralizedPartialCredit",
}
_OPTIONAL = (
    "components", "factors", "covariance", "items", "family", "group", "time", "inputs", "random",
    "response",
)  # fmt: skip


class Builder(NamedTuple):
    """How a model is built, which options it takes, and which of them it needs.

    ``kinds`` says whether its columns may be of several types ("any"), are all categories
    ("categorical") or all numbers ("numbers"). ``build`` is None for a flow, which has its own
    climb.
    """

    build: Callable[[Request, Any], Any] | None
    takes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    kinds: str = "numbers"


def climbed_model(request: Request, table: pa.Table) -> tuple[Face, Fit]:
    """The climb of one of these models on a table.

    Raises:
        ValueError: for an option, a column or a cell that cannot be used.
    """
    from minorant._config import precision
    from minorant.fitting import fit

    builder = BUILDERS[request.model]
    weights = optional(table, request.weights_column, "--weights-column")
    weights = as_weights(weights, table.num_rows)
    face = _face(request, table, builder)
    steps = steps_of(face, table, face.columns.encode(_kept(request, table)))
    if builder.build is None:
        return face, flows.climbed(request, steps.matrix, weights)
    if weights is not None:
        weights = _on_steps(weights, steps.placed, len(steps.matrix.values), steps.groups)
    given = {"tolerance": request.tolerance, "max_steps": request.max_steps}
    with precision(np.dtype(float)):
        answer = fit(
            _told_of_groups(builder.build(request, face.columns), steps.groups),
            steps.matrix,
            weights=weights,
            random_state=request.seed,
            progress=not request.quiet and request.on_terminal,
            checkpoint=request.checkpoint,
            **steps.keywords(),
            **{name: value for name, value in given.items() if value is not None},
        )
    return face, published(answer)


def check_model_options(request: Request) -> None:
    """Raise ValueError for options that the model does not take, or that it needs and lacks."""
    builder = BUILDERS[request.model]
    for name in _OPTIONAL:
        given, spelled = getattr(request, name), _spelled(name)
        if given not in (None, ()) and name not in builder.takes:
            raise ValueError(f"{spelled} is not for --model {request.model}: leave it out.")
        if given in (None, ()) and name in builder.needs:
            raise ValueError(f"--model {request.model} needs {spelled}.")
    for name in ("components", "factors"):
        count = getattr(request, name)
        if count is not None and count < 1:
            raise ValueError(f"{_spelled(name)} must be at least 1; got {count}.")
    if request.types and builder.kinds != "any":
        raise ValueError(f"--column is not for --model {request.model}: leave it out.")
    for name in ("labels_column", "starts"):
        if getattr(request, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is not for --model {request.model}: leave it out."
            )


def _spelled(name: str) -> str:
    return "--" + {"inputs": "input"}.get(name, name)


def _kept(request: Request, table: pa.Table) -> pa.Table:
    """The columns that are modelled."""
    if request.response is not None:
        return table.select([request.response])
    gone = {*request.drop, *request.inputs, request.weights_column, request.group, request.time}
    for name in request.drop:
        named(table, name, "named by --drop")
    kept = table.select([name for name in table.column_names if name not in gone])
    if not kept.column_names:
        raise ValueError("No column is left to learn from: drop fewer columns.")
    return kept


def _face(request: Request, table: pa.Table, builder: Builder) -> Face:
    if request.response is not None:
        named(table, request.response, "named by --response")
    kept = _kept(request, table)
    where = (request.group, request.time, request.inputs)
    if builder.kinds == "numbers":
        return Face(request.model, Numbers(tuple(kept.column_names)), *where)
    types = request.types
    if builder.kinds == "categorical":
        types = dict.fromkeys(kept.column_names, "categorical")
    return Face(request.model, Kinds(infer(kept, types, None)), *where)


def _on_steps(
    weights: np.ndarray, placed: np.ndarray, n: int, groups: np.ndarray | None
) -> np.ndarray:
    """Weights of rows on all steps: a step that was put in has its sequence's."""
    if n == len(placed):
        spread = np.empty(n)
        spread[placed] = weights
        return spread
    codes = np.zeros(n, dtype=np.int64) if groups is None else groups
    of_group = np.zeros(int(codes.max()) + 1)
    of_group[codes[placed]] = weights
    return of_group[codes]


# --- one function for each model -----------------------------------------------------------------


def _factors(request: Request, columns: Numbers) -> Any:
    from minorant import models

    _check_factors(request, columns)
    kind = models.PPCA if request.model == "ppca" else models.FactorAnalysis
    return kind(request.factors or 1)


def _factor_mixture(request: Request, columns: Numbers) -> Any:
    from minorant import components, models

    _check_factors(request, columns)
    analyser = components.FactorAnalyser(request.factors or 1)
    return models.Mixture(analyser, n_components=request.components or 1)


def _check_factors(request: Request, columns: Numbers) -> None:
    if (request.factors or 1) >= len(columns.names):
        raise ValueError(
            f"--factors must be below the number of columns, {len(columns.names)}; got "
            f"{request.factors}. Ask for fewer factors."
        )


def _hidden_markov(request: Request, columns: Kinds) -> Any:
    from minorant.estimators import MixtureModel
    from minorant.models import HiddenMarkov, TransitionLogits

    k = request.components or 1
    shape = {"diagonal": "diag"}.get(request.covariance or "full", request.covariance or "full")
    component = MixtureModel(k, covariance_type=shape).component(columns.columns)
    moves = TransitionLogits(len(request.inputs)) if request.inputs else None
    return HiddenMarkov(component, transition=moves, n_components=k)


def _state_space(request: Request, columns: Numbers) -> Any:
    from minorant.models import StateSpace

    del columns
    return StateSpace(n_states=request.factors or 1, n_inputs=len(request.inputs))


def _told_of_groups(model: Any, groups: np.ndarray | None) -> Any:
    from minorant.models import StateSpace

    if not isinstance(model, StateSpace):
        return model
    return state_space_of(model, 1 if groups is None else len(np.unique(groups)))


def state_space_of(model: Any, count: int) -> Any:
    """A state space model learns how sequences begin, as the estimator's does, from enough."""
    from minorant.models._state_space_shapes import without_first

    held = without_first(model.held or (), count, model.n_states)
    return dataclasses.replace(model, held=held)


def published(answer: Fit) -> Fit:
    """States turned to the rotation in which ``C' R^-1 C`` is diagonal, as the estimator's are."""
    from minorant.models import StateSpace
    from minorant.models._state_space_shapes import canonical_rotation, rotated

    if not isinstance(answer.model, StateSpace):
        return answer
    turn = canonical_rotation(answer.model)
    model, standardised = (rotated(m, turn) for m in (answer.model, answer.standardised))
    return answer._replace(model=model, standardised=standardised)


def _latent_trait(request: Request, columns: Kinds) -> Any:
    from minorant import models

    kind = request.items or _items_for(columns.columns)
    return models.LatentTrait(getattr(models, ITEMS[kind])(), n_traits=request.factors or 1)


def _items_for(columns: Columns) -> str:
    """2PL for yes-or-no items, graded response where some item has more answers."""
    most = max(len(column.categories or ()) for column in columns.items)
    return "2pl" if most <= 2 else "graded"


def _mixed(request: Request, columns: Numbers) -> Any:
    from minorant.models import MixedModel

    del columns
    for name in request.random:
        if name not in request.inputs:
            raise ValueError(f"--random {name} must also be an --input: add --input {name}.")
    places = (0, *(1 + request.inputs.index(name) for name in request.random))
    return MixedModel(request.family or "normal", random=places)


BUILDERS = {
    "factor-analysis": Builder(_factors, ("factors",), ("factors",)),
    "ppca": Builder(_factors, ("factors",), ("factors",)),
    "factor-mixture": Builder(
        _factor_mixture, ("components", "factors"), ("components", "factors")
    ),
    "hidden-markov": Builder(
        _hidden_markov,
        ("components", "covariance", "group", "time", "inputs"),
        ("components",),
        "any",
    ),
    "state-space": Builder(_state_space, ("factors", "group", "time", "inputs"), ("factors",)),
    "latent-trait": Builder(_latent_trait, ("factors", "items"), (), "categorical"),
    "flow-density": Builder(None, ()),
    "mixed-model": Builder(
        _mixed, ("family", "group", "inputs", "random", "response"), ("group", "response")
    ),
}
