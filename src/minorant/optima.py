"""The distinct optima that the starts of a fit led to, components matched to the best one's."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import from_vector
from minorant.models.base import count_components
from minorant.result import Climbed, Fit, Optimum

_SAME_OBJECTIVE = 1e-5
_SAME_PARAMETERS = 1e-2


def optima(fit: Fit) -> tuple[Optimum, ...]:
    """The distinct optima among the climbs that were finished, best first.

    Two climbs share an optimum when their objectives agree to 1e-5 nats per row and their
    parameters, after matching components, to 1% of the data's spread.

    Args:
        fit: a fit from several starts.

    Returns:
        One record for each optimum: objective (nats), the starts that led there, the root mean
        square distance of its parameters from the best optimum's in standardised units after
        matching components, the matching itself, and how the climb ended.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> answer = minorant.fit(minorant.Mixture(Gaussian(), n_components=2), rows)
        >>> answer.optima[0].distance
        0.0
    """
    order = sorted(range(len(fit.climbs)), key=lambda i: -fit.climbs[i].objective)
    finished = [fit.climbs[i] for i in order if np.isfinite(fit.climbs[i].objective)]
    found: list[Optimum] = []
    for climb in finished:
        same = [_is_same(fit, climb, other) for other in found]
        if any(same):
            at = same.index(True)
            found[at] = found[at]._replace(starts=(*found[at].starts, climb.start))
        else:
            found.append(_record(climb, _model(fit, climb), found))
    return tuple(found)


def _is_same(fit: Fit, climb: Climbed, other: Optimum) -> bool:
    close = abs(climb.objective - other.objective) <= _SAME_OBJECTIVE * fit.n_rows
    return close and _matched(_model(fit, climb), other.model)[0] < _SAME_PARAMETERS


def _model(fit: Fit, climb: Climbed) -> Any:
    return from_vector(fit.standardised, climb.point)


def _record(climb: Climbed, model: Any, found: list[Optimum]) -> Optimum:
    distance, matching = (0.0, np.arange(count_components(model)))
    if found:
        distance, matching = _matched(model, found[0].model)
    return Optimum(
        objective=climb.objective,
        starts=(climb.start,),
        distance=float(distance),
        matching=tuple(int(i) for i in matching),
        outcome=climb.outcome,
        model=model,
    )


def _matched(model: Any, reference: Any) -> tuple[float, Int[np.ndarray, " k"]]:
    """Root mean square distance after the best matching, and the matching itself."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs = _components(model), _components(reference)
    if ours.shape != theirs.shape:
        return float("inf"), np.arange(len(ours))
    cost = ((theirs[:, None, :] - ours[None, :, :]) ** 2).mean(2)
    rows, columns = linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean())), columns


def _components(model: Any) -> Float[np.ndarray, "k p"]:
    """Every component's parameters as one row, the weight among them."""
    k = count_components(model)
    if k == 1:
        return model.invariants()[None]
    leaves = [np.asarray(leaf, dtype=float) for leaf in jax.tree.leaves(model)]
    return np.concatenate([leaf.reshape(k, -1) for leaf in leaves if leaf.shape[:1] == (k,)], 1)
