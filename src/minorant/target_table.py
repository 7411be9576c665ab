"""Tables of a target's posterior, number by number."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant._pareto import UNRELIABLE, smoothed

_SHOWN = 6


class Row(NamedTuple):
    """One number of the posterior: mean and quantiles, with Monte Carlo errors.

    ``tail`` is the k-hat of its weighted squares: from 0.7 on, quantiles hold, but the standard
    deviation (which the posterior may not even have) and the Monte Carlo error do not.
    ``response_sd`` is its standard deviation by linear response, NaN where there is none.
    """

    name: str
    mean: float
    sd: float
    mean_error: float
    q5: float
    q50: float
    q95: float
    tail: float
    response_sd: float = float("nan")

    @property
    def is_reliable(self) -> bool:
        """Whether mean and standard deviation can be relied on."""
        return self.tail < UNRELIABLE

    def __str__(self) -> str:
        """One line; a star where mean and standard deviation cannot be relied on."""
        star = "" if self.is_reliable else " *"
        response = "" if np.isnan(self.response_sd) else f" {self.response_sd:12.5g}"
        return (
            f"{self.name:24s} {self.mean:12.5g} {self.sd:12.5g} {self.mean_error:10.2g} "
            f"{self.q5:12.5g} {self.q50:12.5g} {self.q95:12.5g}{response}{star}"
        )


class Table(NamedTuple):
    """The posterior number by number, and what its draws are worth."""

    rows: tuple[Row, ...]
    sentence: str

    def __getitem__(self, name: Any) -> Any:
        """The row of that name; by number, the field."""
        if isinstance(name, str):
            return next(row for row in self.rows if row.name == name)
        return tuple(self)[name]

    def __str__(self) -> str:
        """The table and the sentence."""
        columns = ["mean", "sd", "mc error", "5%", "50%", "95%"]
        if any(not np.isnan(row.response_sd) for row in self.rows):
            columns.append("lr sd")
        head = f"{'':24s} {columns[0]:>12s} {columns[1]:>12s} {columns[2]:>10s} "
        head += " ".join(f"{column:>12s}" for column in columns[3:])
        return "\n".join([head, *map(str, self.rows), self.sentence])


class Response(NamedTuple):
    """Linear-response covariances of some numbers.

    Attributes:
        names: of the numbers.
        covariance: (m, m).
    """

    names: tuple[str, ...]
    covariance: Float[np.ndarray, "m m"]

    @property
    def sd(self) -> Float[np.ndarray, " m"]:
        """Standard deviations."""
        return np.sqrt(np.diagonal(self.covariance))


def labels_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """The names of an array's numbers: ``a[0, 1]``, or ``a`` for a single one."""
    return [
        name + (f"[{', '.join(map(str, index))}]" if index else "") for index in np.ndindex(shape)
    ]


def warned(rows: list[Row], has_response: bool) -> str:
    """What is to be said below the table."""
    found = ""
    if has_response:
        found += (
            "\nlr sd: standard deviations by linear response, for those of independent coordinates "
            "are too small where unknowns depend on each other."
        )
    starred = [row.name for row in rows if not row.is_reliable]
    if not starred:
        return found
    shown = ", ".join(starred[:_SHOWN]) + (", ..." if len(starred) > _SHOWN else "")
    return found + (
        f"\n* {shown}: tails so heavy that mean and standard deviation cannot be relied on; the "
        "quantiles can."
    )


def row_of(
    name: str,
    values: Float[np.ndarray, " s"],
    weight: Float[np.ndarray, " s"],
    log_weights: Float[np.ndarray, " s"],
) -> Row:
    """Weighted mean, deviation and quantiles of one number, and how heavy its tails are."""
    mean = float(weight @ values)
    sd = float(np.sqrt(weight @ (values - mean) ** 2))
    error = float(np.sqrt((weight**2) @ (values - mean) ** 2))
    order = np.argsort(values)
    total = np.cumsum(weight[order]) - 0.5 * weight[order]
    quantiles = np.interp([0.05, 0.5, 0.95], total, values[order])
    away = np.abs(values - mean)
    with np.errstate(divide="ignore"):
        tail = smoothed(log_weights + 2.0 * np.log(away))[1]
    low, middle, high = map(float, quantiles)
    return Row(name, mean, sd, error, low, middle, high, tail)
