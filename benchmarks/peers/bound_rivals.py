"""A rival's bound against time: ``python -m benchmarks.peers.bound_rivals p method seconds``.

NumPyro's guides climb by Adam at three step sizes, each for a third of the time; every second the
guide is judged on 20,000 draws, which the clock does not count. BlackJAX's Pathfinder runs once for
each of four starts.
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.bound_targets import log_density  # noqa: E402

jax.config.update("jax_enable_x64", True)
STEPS = (1e-1, 1e-2, 1e-3)
JUDGED, BLOCK = 20_000, 200


def judged(log_weights: np.ndarray) -> float:
    return float(np.mean(log_weights))


def guided(p: int, kind: str, seconds: float) -> list[list[dict[str, float]]]:
    """NumPyro: bounds on the way at each step size."""
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoBNAFNormal, AutoMultivariateNormal, AutoNormal

    guides = {"mean_field": AutoNormal, "full_rank": AutoMultivariateNormal, "flow": AutoBNAFNormal}
    density = log_density(p)

    def model():
        beta = numpyro.sample("beta", dist.ImproperUniform(dist.constraints.real, (), (p,)))
        numpyro.factor("density", density(beta))

    started = time.perf_counter() - _BEGAN
    runs = []
    for step in STEPS:
        guide = guides[kind](model)
        svi = SVI(model, guide, numpyro.optim.Adam(step), Trace_ELBO(num_particles=10))
        runs.append(_climbed(svi, model, guide, started, seconds / len(STEPS)))
    return runs


def _climbed(svi, model, guide, started: float, seconds: float) -> list[dict[str, float]]:
    """One step size: the bound every second, the clock stopped while it is judged."""
    began = time.perf_counter()
    advance = jax.jit(
        lambda state: jax.lax.fori_loop(0, BLOCK, lambda _, s: svi.update(s)[0], state)
    )
    score = jax.jit(lambda parameters: _elbo(model, guide, parameters))
    state = svi.init(jax.random.key(0))
    run, away, last, now = [], 0.0, -np.inf, 0.0
    while now < seconds:
        state = jax.block_until_ready(advance(state))
        now = time.perf_counter() - began - away
        if now - last > 1.0:
            last, pause = now, time.perf_counter()
            bound = float(score(svi.get_params(state)))
            away += time.perf_counter() - pause
            run.append({"seconds": started + now, "bound": bound if bound > -1e30 else -1e30})
    return run


def _elbo(model, guide, parameters):
    """The guide's bound on many draws."""
    from numpyro.infer import Trace_ELBO

    loss = Trace_ELBO(num_particles=JUDGED // 10)
    keys = jax.random.split(jax.random.key(1), 10)
    return -jax.lax.map(lambda k: loss.loss(k, parameters, model, guide), keys).mean()


def pathfinder(p: int) -> list[list[dict[str, float]]]:
    """BlackJAX: the best of four paths, each judged on fresh draws."""
    import blackjax

    density = log_density(p)
    approximate = jax.jit(lambda k, x: blackjax.vi.pathfinder.approximate(k, density, x)[0])
    draw = jax.jit(lambda k, s: blackjax.vi.pathfinder.sample(k, s, JUDGED))
    run, best, away = [], -np.inf, 0.0
    for seed in range(4):
        key = jax.random.key(seed)
        start = jax.random.uniform(key, (p,), minval=-2, maxval=2)
        state = jax.block_until_ready(approximate(key, start))
        now, pause = time.perf_counter() - _BEGAN - away, time.perf_counter()
        points, log_q = draw(jax.random.key(100 + seed), state)
        bound = judged(np.asarray(jax.vmap(density)(points) - log_q))
        away += time.perf_counter() - pause
        best = max(best, bound)
        run.append({"seconds": now, "bound": best})
    return [run]


def main() -> None:
    """Measure and print."""
    p, method, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    runs = pathfinder(p) if method == "pathfinder" else guided(p, method, seconds)
    print(json.dumps({"runs": runs}))


if __name__ == "__main__":
    main()
