"""Which rule of acceleration: EM steps to the optimum from equal starts, ten problems, five starts.

A step is one pass over the rows, refused extrapolations included. For every problem and start all
rules begin at the same point; steps are counted until the objective is within 1e-6 nats per row of
the highest that any rule reached from that start. A rule that ends at a lower optimum by more is
marked. Run by ``python -m benchmarks.acceleration``; the table goes to
``benchmarks/results/acceleration.md``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import minorant
from benchmarks.problems import Problem, problems
from minorant import _config
from minorant.solvers import EM, Anderson, Plain, Squarem
from minorant.solvers.starts import Starts

RULES = {
    "plain": Plain(),
    "squarem": Squarem(),
    "anderson 3": Anderson(order=3),
    "anderson 5": Anderson(order=5),
    "anderson 10": Anderson(order=10),
}
SEEDS = range(5)
CLOSE = 1e-6
MAX_STEPS = 20000


def climbs(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """The objective step by step under every rule, from one start."""
    found = {}
    for name, rule in RULES.items():
        answer = minorant.fit(
            problem.model,
            problem.table,
            weights=problem.weights,
            solver=EM(rule, 1e-10),
            starts=Starts(n=1, kinds=("seeded",)),
            max_steps=MAX_STEPS,
            random_state=seed,
            progress=False,
        )
        found[name] = answer.trace.objective / answer.n_rows
    return found


def steps(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Steps until within 1e-6 of the best; infinity where that was not reached."""
    best = max(objective[-1] for objective in found.values())
    reached = {name: objective >= best - CLOSE for name, objective in found.items()}
    return {n: float(np.argmax(r) + 1) if r.any() else np.inf for n, r in reached.items()}


def row(problem: Problem) -> str:
    """Median steps of every rule, and how many of the starts it missed the best optimum."""
    each = [steps(climbs(problem, seed)) for seed in SEEDS]
    cells = []
    for name in RULES:
        counts = np.array([one[name] for one in each])
        missed = int(np.isinf(counts).sum())
        cells.append(f"{np.median(counts):.0f}" + (f" ({missed} missed)" if missed else ""))
    return f"| {problem.name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print, write."""
    lines = [
        "# EM steps to within 1e-6 nats per row of the best optimum from the same start",
        "",
        f"Median over {len(SEEDS)} starts; `(m missed)`: starts from which another rule ended "
        "higher.",
        "",
        "| problem | " + " | ".join(RULES) + " |",
        "|---" * (len(RULES) + 1) + "|",
    ]
    with _config.precision(np.float64):
        for problem in problems():
            lines.append(row(problem))
            print(lines[-1], flush=True)
    Path(__file__).parent.joinpath("results", "acceleration.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
