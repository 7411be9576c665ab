"""Fits of targets on disk: everything but the target, which is the user's function."""

from __future__ import annotations

from typing import Any

import numpy as np

from minorant.checking import POINTS, looked_at
from minorant.models.target import AbstractTarget
from minorant.target_fit import TargetFit, TargetPosterior

_KEPT = ("outcome", "bound", "rungs", "explanation", "check", "seconds", "random_state", "chosen")
_CLOSE = 1e-6


def stored(fit: TargetFit) -> dict[str, Any]:
    """What is written: the answer, the shapes of values, and the log density at some draws."""
    draws = fit.posterior.draws
    points = np.resize(draws.points, (POINTS, draws.points.shape[1]))
    return {
        "size": fit.target.size,
        "values": {name: list(shape) for name, shape in _shapes(fit.posterior).items()},
        "points": points,
        "log_densities": looked_at(fit.target, points)[0],
        "draws": draws,
        **{name: getattr(fit, name) for name in _KEPT},
    }


def restored(record: dict[str, Any], target: AbstractTarget | None) -> TargetFit:
    """The fit, its target handed over again.

    Raises:
        TypeError: without a target, or for what is none.
        ValueError: for a target of other unknowns, or another log density.
    """
    if not isinstance(target, AbstractTarget):
        got = "none" if target is None else type(target).__name__
        raise TypeError(
            "The fit is that of a target, whose log density is a function of yours and was not "
            f"stored: give it again as load(..., target=); got {got}."
        )
    _check_size(record, target)
    fields = {name: record[name] for name in _KEPT}
    member = fields["rungs"][fields["chosen"]].member
    posterior = TargetPosterior(target, member, record["draws"], np.dtype(np.float64))
    _check_values(record, posterior)
    return TargetFit(target, posterior, **fields)


def _shapes(posterior: TargetPosterior) -> dict[str, tuple[int, ...]]:
    """Of the values of one draw."""
    one = posterior._values(posterior.draws.points[:1])
    return {name: value.shape[1:] for name, value in one.items()}


def _check_size(record: dict[str, Any], target: AbstractTarget) -> None:
    if target.size != record["size"]:
        raise ValueError(
            f"The stored fit is of a target with {record['size']} free coordinates; this one has "
            f"{target.size}: give the target that was fitted."
        )


def _check_values(record: dict[str, Any], posterior: TargetPosterior) -> None:
    stated = {name: tuple(shape) for name, shape in record["values"].items()}
    found = _shapes(posterior)
    if stated != found:
        raise ValueError(
            f"The stored fit is of a target with the values {stated}; this one has {found}: give "
            "the target that was fitted."
        )
    before, now = record["log_densities"], looked_at(posterior.target, record["points"])[0]
    if not np.allclose(now, before, rtol=_CLOSE, atol=_CLOSE, equal_nan=True):
        worst = int(np.nanargmax(np.abs(now - before)))
        raise ValueError(
            f"At a draw of the stored fit this target's log density is {now[worst]:.6g}, and was "
            f"{before[worst]:.6g} when it was fitted: give the same data and the same function, or "
            "fit again."
        )
