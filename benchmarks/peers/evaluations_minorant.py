"""Fit and certificate, evaluations counted: ``-m benchmarks.peers.evaluations_minorant CASE W``.

W is the width asked for, in nats. The density passes its unknowns through an identity that reports
to the host how many points it was given, as values alone or as values with gradients. What is
evaluated and thrown away counts too.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats

import minorant
from benchmarks import evaluations_cases as cases
from minorant import unknowns as u
from minorant._pareto import averaged, smoothed
from minorant.targets import Target

COUNTS = {"values": 0, "gradients": 0}
_SECONDS = 600.0


def _reported(kind: str, x):
    """Zero, by a call to the host that counts points."""

    def count(point):
        COUNTS[kind] += int(np.prod(point.shape))
        return np.zeros(point.shape, np.float32)

    # float32, whatever the density's type: the host's own switch may not know float64.
    first = jax.lax.stop_gradient(x[0]).astype(jnp.float32)
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    zero = jax.pure_callback(count, shape, first, vmap_method="broadcast_all")
    return zero.astype(x.dtype)


@jax.custom_jvp
def counted(x):
    """The same, counted as a value."""
    return x + _reported("values", x)


@counted.defjvp
def _counted_with_slope(primals, tangents):
    return primals[0] + _reported("gradients", primals[0]), tangents[0]


def target(name: str) -> Target:
    """The density of that name, counted."""
    return {"gaussian": _gaussian, "banana": _banana, "regression": _regression}[name]()


def _gaussian() -> Target:
    inverse, centre = np.linalg.inv(cases.covariance()), cases.seen()
    constant = -0.5 * np.linalg.slogdet(2 * np.pi * cases.covariance())[1]

    def log_density(x):
        x = counted(x)
        likelihood = constant - 0.5 * (x - centre) @ inverse @ (x - centre)
        return stats.norm.logpdf(x, 0.0, cases.WIDE).sum() + likelihood

    return Target(log_density, x=u.real(cases.SIZE))


def _banana() -> Target:
    half = cases.SIZE // 2

    def log_density(x):
        x = counted(x)
        a, b = x[:half], x[half:]
        bent = stats.norm.logpdf(b, a**2 - 1.0, cases.NARROW).sum()
        return stats.norm.logpdf(a).sum() + bent

    return Target(log_density, x=u.real(cases.SIZE))


def _regression() -> Target:
    X, y = cases.table()

    def log_density(w, tau):
        w = counted(w)
        deviation = 1.0 / jnp.sqrt(tau)
        prior = stats.gamma.logpdf(tau, 2.0, scale=0.5) + stats.norm.logpdf(w, 0, deviation).sum()
        return prior + stats.norm.logpdf(y, X @ w, deviation).sum()

    return Target(log_density, w=u.real(cases.SIZE), tau=u.positive())


def main() -> None:
    """Fit, certify to that width, print what it took."""
    name, width = sys.argv[1], float(sys.argv[2])
    fit = minorant.fit(target(name), posterior="full-rank", seconds=_SECONDS, progress=False)
    fitted, log_weights = dict(COUNTS), fit.posterior.draws.log_weights
    alone, spread = averaged(log_weights)
    weighed = {
        "alone": float(alone),
        "alone_error": float(spread / len(log_weights) ** 0.5),
        "alone_k_hat": float(smoothed(log_weights)[1]),
    }
    evidence = fit.evidence(accuracy=width, seconds=_SECONDS)
    found = {"lower": evidence.lower, "estimate": evidence.estimate, "upper": evidence.upper}
    counts = COUNTS | {f"fit_{key}": value for key, value in fitted.items()}
    print(json.dumps(found | counts | weighed | {"verdict": evidence.verdict}))


if __name__ == "__main__":
    main()
