"""Our Kalman smoother and EM step: ``python -m benchmarks.peers.kalman_minorant n l d gaps``."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np

from benchmarks.kalman_data import series, timed
from minorant._types import Groups, Rows
from minorant.models import StateSpace


@jax.jit
def smooth(model: StateSpace, rows: Rows) -> tuple[jax.Array, ...]:
    """Means and covariances of every step, as a user of the posterior gets them."""
    return model.posterior(rows, model.prepare()).by_row()


@jax.jit
def expect(model: StateSpace, rows: Rows) -> jax.Array:
    """Log-likelihood and everything that an EM step needs, then the step."""
    found = model.expectation(rows, model.prepare())
    return found.bound, model.maximise(found.statistics)


@jax.jit
def gradient(model: StateSpace, rows: Rows) -> tuple[jax.Array, StateSpace]:
    """The evidence and its derivative by every parameter, by Fisher's identity."""
    return jax.value_and_grad(lambda m: m.summed_log_evidence(rows, m.prepare()))(model)


@jax.jit
def filter_gradient(model: StateSpace, rows: Rows) -> tuple[jax.Array, StateSpace]:
    """The same, the filter differentiated as it stands."""
    return jax.value_and_grad(lambda m: m.log_evidence(rows, m.prepare()).sum())(model)


@jax.jit
def densities(model: StateSpace, rows: Rows) -> jax.Array:
    """``log p(x_t | x_1 .. x_t-1)`` of every row."""
    return model.log_evidence(rows, model.prepare())


def main() -> None:
    """Measure and print."""
    n, l, d = map(int, sys.argv[1:4])
    gaps = float(sys.argv[4])
    jax.config.update("jax_enable_x64", True)
    law, x = series(n, l, d, gaps)
    model = StateSpace(
        law.A, None, np.zeros(l), law.Q, law.C, None, np.zeros(d), np.diag(law.R), law.m, law.P,
        floor=np.full(d, 1e-9), state_floor=np.full(l, 1e-9),
    )  # fmt: skip
    model = jax.tree.map(np.asarray, model)
    empty = {"transition_inputs": np.zeros((l, 0)), "observation_inputs": np.zeros((d, 0))}
    from minorant.models._state_space_shapes import replaced

    model = replaced(model, **empty)
    seen = ~np.isnan(x)
    start = np.arange(n) == 0
    groups = Groups(start, np.zeros(n, np.int32), 1)
    observed = None if seen.all() else seen
    rows = Rows(np.where(seen, x, 0.0), np.ones(n), observed, groups=groups)
    rows = jax.device_put(rows)
    found = {
        "smooth": timed(lambda: smooth(model, rows)),
        "em_step": timed(lambda: expect(model, rows)),
        "densities": timed(lambda: densities(model, rows)),
        "gradient": timed(lambda: gradient(model, rows)),
        "gradient of the filter": timed(lambda: filter_gradient(model, rows), rounds=1),
        "log_likelihood": float(expect(model, rows)[0]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
