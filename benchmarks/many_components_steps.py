"""One scene of ``many_components`` in a process of its own; prints one JSON line.

    python -m benchmarks.many_components_steps SCALE N K D LENGTHS STEPS

Times of single steps at the parameters that the rows were drawn with; then both climbs from one
start, k-means on a sample and one step.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import numpy as np

import minorant
from minorant.components import Gaussian
from minorant.data.tables import as_table
from minorant.lists import first_lists, new_lists
from minorant.posteriors import Truncated
from minorant.preparation import Prepared, prepare
from minorant.solvers import EM, Problem
from minorant.solvers.truncated_em import TruncatedEM
from minorant.truncated_ends import started

WARM = 12  # steps with longer lists, which a climb from k-means begins with


def scene(scale: float, n: int, k: int, d: int) -> tuple[np.ndarray, Any]:
    """Rows drawn from a mixture of correlated normals whose means have this spread."""
    rng = np.random.default_rng(0)
    means = scale * rng.normal(size=(k, d))
    roots = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(d)
    shares = rng.dirichlet(np.full(k, 3.0))
    labels = rng.choice(k, n, p=shares)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(matrices)[labels], rng.normal(size=(n, d)))
    component = Gaussian(mean=means, covariance=matrices)
    return means[labels] + noise, minorant.Mixture(component, shares, n_components=k)


def timed(solver: Any, problem: Problem, repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest step, and the state after the first."""
    step = jax.jit(solver.step)
    state = jax.jit(solver.init)(problem)
    after = jax.block_until_ready(step(problem, state))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(step(problem, state))
        seconds.append(time.perf_counter() - began)
    return min(seconds), after


def steps(prepared: Prepared, lengths: list[int]) -> list[dict[str, Any]]:
    """The full step, and the truncated one for every length of lists, at the same parameters."""
    model: Any = prepared.template
    seconds, after = timed(EM(), Problem(model, prepared.source), 2)
    exact = float(after.bound) - prepared.log_scale
    total = float(prepared.source.n_rows())
    rows: list[dict[str, Any]] = [{"E-step": "full", "seconds": seconds, "per_row": exact / total}]
    paired = model.stabilised(np.inf)
    for c in lengths:
        began = time.perf_counter()
        source = first_lists(prepared.source.segments[0], model, c).source
        first = time.perf_counter() - began
        new_lists(source, (paired, model), c, None, 1)  # compiles
        began = time.perf_counter()
        source = new_lists(source, (paired, model), c, None, 2).source
        renewed = time.perf_counter() - began
        seconds, after = timed(TruncatedEM(EM()), Problem(paired, source), 3)
        lost = exact + prepared.log_scale - float(after.bound)
        found = {"E-step": f"{c} listed", "seconds": seconds, "first lists": first}
        rows.append(
            found | {"new lists": renewed, "loss": lost / total, "share": lost / abs(exact)}
        )
    return rows


def climbs(values: np.ndarray, k: int, c: int, most: int) -> dict[str, float]:
    """Both climbs from one start for equal steps: seconds, and log p per row at the end.

    ``full_log_p_then`` is what the full climb had come to in the processor time of the truncated
    one, whose first lists, new lists and measured loss are counted, and its start is not.
    """
    template, q = minorant.Mixture(Gaussian(), n_components=k), Truncated(c)
    start = minorant.fit(template, values, posterior=q, max_steps=1).model
    options: dict[str, Any] = {"posterior": q, "max_steps": most - WARM, "tolerance": 0.0}
    minorant.fit(template, values, **options)  # compiles
    began, work = time.perf_counter(), time.process_time()
    short = minorant.fit(template, values, **options)
    truncated, room = time.perf_counter() - began, time.process_time() - work
    began = time.process_time()
    started(prepare(template, *as_table(values, None, None, None, None)), np.random.default_rng(0))
    room -= time.process_time() - began  # the start is given to the full climb
    prepared = prepare(start, *as_table(values, None, None, None, None))
    problem, step = Problem(prepared.template, prepared.source), jax.jit(EM().step)
    state = jax.jit(EM().init)(problem)
    jax.block_until_ready(step(problem, state))
    began, work, full = time.perf_counter(), time.process_time(), []
    for _ in range(most):
        state = jax.block_until_ready(step(problem, state))
        full.append((time.process_time() - work, float(state.bound) - prepared.log_scale))
    total = float(prepared.source.n_rows())
    then = [bound for spent, bound in full if spent <= room] or [full[0][1]]
    return {
        "steps": most,
        "truncated_seconds": truncated,
        "full_seconds": time.perf_counter() - began,
        "truncated_log_p": short.truncation.log_evidence.value / total,
        "full_log_p": full[-1][1] / total,
        "full_log_p_then": then[-1] / total,
        "truncated_cpu": room,
        "full_cpu": full[-1][0],
        "truncated_bound": short.bound / total,
    }


def main() -> None:
    """Measure one scene."""
    scale, (n, k, d) = float(sys.argv[1]), map(int, sys.argv[2:5])
    lengths, most = [int(c) for c in sys.argv[5].split(",")], int(sys.argv[6])
    with jax.enable_x64(True):
        values, truth = scene(scale, n, k, d)
        prepared = prepare(truth, *as_table(values, None, None, None, None))
        found: dict[str, Any] = {"steps": steps(prepared, lengths)}
        if most:
            found["climbs"] = climbs(values, k, lengths[0], most)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
