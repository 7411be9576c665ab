"""dynamax's Kalman smoother: ``python -m benchmarks.peers.kalman_dynamax n l d gaps``."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_smoother

from benchmarks.kalman_data import series, timed


def main() -> None:
    """Measure and print."""
    n, l, d = map(int, sys.argv[1:4])
    jax.config.update("jax_enable_x64", True)
    law, x = series(n, l, d, 0.0)
    model = LinearGaussianSSM(l, d, has_dynamics_bias=False, has_emissions_bias=False)
    parameters, properties = model.initialize(
        jax.random.PRNGKey(0),
        initial_mean=law.m,
        initial_covariance=law.P,
        dynamics_weights=law.A,
        dynamics_covariance=law.Q,
        emission_weights=law.C,
        emission_covariance=law.R,
    )
    rows = jnp.asarray(x)

    @jax.jit
    def smooth(parameters: object, rows: jax.Array) -> tuple[jax.Array, ...]:
        found = lgssm_smoother(parameters, rows)
        return found.smoothed_means, found.smoothed_covariances, found.marginal_loglik

    @jax.jit
    def em_step(parameters: object, rows: jax.Array) -> object:
        statistics, _ = model.e_step(parameters, rows)
        each = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], statistics)
        return model.m_step(parameters, properties, each, None)[0]

    found = {
        "smooth": timed(lambda: smooth(parameters, rows)),
        "em_step": timed(lambda: em_step(parameters, rows)),
        "log_likelihood": float(smooth(parameters, rows)[2]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
