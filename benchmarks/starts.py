"""What several starts find beyond one, for models whose latent is no partition of the rows.

Each problem is fitted from one start and from eight (`Starts(8)`: the same first one and seven
moved from it at random), all climbed until converged. `gain` is what the best of eight is above
the one, in nats of the whole table; `optima` how many distinct ones the eight ended at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import minorant
from benchmarks import options
from benchmarks.report import Section, save
from minorant import models
from minorant.solvers.starts import Starts

N_STARTS = 8
NOTE = (
    "Nats of the whole table. `gain`: the best of eight starts above the first alone; `optima`: "
    "distinct ones among the eight that were not dropped; seconds of each fit, compiling included."
)


class Problem(NamedTuple):
    """A model that is still to be learned, and rows made from a seed."""

    name: str
    model: Callable[[], Any]
    rows: Callable[[np.random.Generator], np.ndarray]
    seeds: int = 3


def oscillators(rng: np.random.Generator) -> np.ndarray:
    """Two damped oscillations seen in three columns, much noise."""
    A, states = np.zeros((4, 4)), np.zeros((300, 4))
    for place, (radius, turn) in ((0, (0.98, 0.3)), (2, (0.95, 1.2))):
        c, s = radius * np.cos(turn), radius * np.sin(turn)
        A[place : place + 2, place : place + 2] = [[c, -s], [s, c]]
    for t in range(1, 300):
        states[t] = A @ states[t - 1] + rng.normal(size=4)
    return states @ rng.normal(size=(4, 3)) + 2.0 * rng.normal(size=(300, 3))


def few_columns(rng: np.random.Generator) -> np.ndarray:
    """Two factors behind five columns and forty rows."""
    return rng.normal(size=(40, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(40, 5))


def guessed(rng: np.random.Generator) -> np.ndarray:
    """Twelve items that may be guessed, 500 persons."""
    ability, hard = rng.normal(size=(500, 1)), np.linspace(-1.5, 1.5, 12)
    chance = 0.2 + 0.8 / (1.0 + np.exp(-1.5 * (ability - hard)))
    return (rng.random(chance.shape) < chance).astype(float)


PROBLEMS = (
    Problem("StateSpace, 4 states", lambda: models.StateSpace(n_states=4), oscillators),
    Problem("FactorAnalysis, 2 of 5 columns", lambda: models.FactorAnalysis(2), few_columns),
    Problem("LatentTrait, 3PL", lambda: models.LatentTrait(models.ThreeParameter()), guessed, 2),
)


def measured(problem: Problem, seed: int, n: int) -> dict[str, Any]:
    """One problem, from one start and from several."""
    rows = problem.rows(np.random.default_rng(seed))
    found = []
    for starts in (None, Starts(n)):
        began = time.perf_counter()
        fit = minorant.fit(problem.model(), rows, starts=starts, progress=False)
        found.append((fit, time.perf_counter() - began))
    (one, alone), (many, together) = found
    return {
        "problem": problem.name,
        "seed": seed,
        "one start": f"{one.objective:.3f}",
        "gain": many.objective - one.objective,
        "optima": len(many.optima),
        "seconds, one": alone,
        f"seconds, {n}": together,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    section = Section("starts", "Several starts of continuous models", NOTE)
    with jax.enable_x64(True):
        for problem in PROBLEMS:
            for seed in range(1 if chosen.quick else problem.seeds):
                section.rows.append(measured(problem, seed, 2 if chosen.quick else N_STARTS))
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
