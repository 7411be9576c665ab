"""The climb that every estimator's `fit` makes: precision, names, steps, seed, bar, checkpoint.

JAX is imported when a fit needs it, never before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minorant.result import Fit


def climbed(
    estimator: Any,
    model: Callable[[], Any],
    data: Any,
    checkpoint: Any = None,
    **options: Any,
) -> Fit:
    """Return the fit of a model to the rows that an estimator was given.

    Args:
        estimator: says by `random_state`, `verbose` and `max_iter` how to climb.
        model: makes what is climbed, in the precision of the rows.
        data: a checked matrix, with names or without, or chunks.
        checkpoint: a directory or a `minorant.Checkpoint` that keeps the climb; None: none does.
        options: of `minorant.fit`, also in place of what the estimator says.
    """
    from minorant._config import precision
    from minorant.data.tables import NamedMatrix
    from minorant.fitting import fit

    options = {
        "max_steps": max(getattr(estimator, "max_iter", 1), 1),
        "random_state": seed_of(estimator.random_state),
        "progress": bool(getattr(estimator, "verbose", False)),
        **options,
    }
    dtype = data.values.dtype if isinstance(data, NamedMatrix) else data.dtype
    with precision(np.dtype(dtype)):
        return fit(model(), data, checkpoint=checkpoint, **options)


def within(checkpoint: Any, name: str) -> Any:
    """Return the checkpoint of a second climb of the same fit, in a folder of the first one's."""
    from dataclasses import replace

    from minorant.checkpoints.place import as_checkpoint

    place = as_checkpoint(checkpoint)
    return None if place is None else replace(place, directory=place.path / name)


def seed_of(random_state: Any) -> int | None:
    """Return a seed drawn from what scikit-learn takes as `random_state`; None: fresh entropy."""
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return None if random_state is None else int(random_state)


def warning_of(answer: Fit) -> str:
    """Return what the user must be told of how the climb ended; empty when all is well."""
    if answer.outcome.name in {"CONVERGED", "PRECISION"}:
        return ""
    sentence = answer.outcome.value.replace("max_steps", "max_iter").replace(
        "remedy=", "degenerate="
    )
    return " ".join(
        [sentence.replace("fit.degenerate", "fit_.degenerate"), *map(str, answer.degenerate)]
    )
