"""Fits to be killed, and the process that starts them: it has imported all and computed nothing.

A process that has JAX's threads cannot be forked; one that has only imported it can. So every life
of a fit costs a fork and the loading of compiled programs, and no import.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import types

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import minorant
from minorant import _trees, climbing, fitting
from minorant.components import Gaussian
from minorant.data.arrays import Table
from minorant.data.chunks import AbstractChunks
from minorant.families import LowRank
from minorant.solvers import EM, Ascent, Incremental, Plain, QuasiNewton
from minorant.solvers.starts import Starts
from minorant.target_fit import TargetFit


class Slices(AbstractChunks):
    """Rows in memory, a slice at a time, no faster than a slow disk."""

    def __init__(self, values, seconds=0.0, rows=100, fails_at=None):
        self._values, self._seconds, self._rows = values, seconds, rows
        self._fails_at, self.read_rows = fails_at, 0

    @property
    def names(self):
        return ("a", "b")

    @property
    def dtype(self):
        return "float64"

    def read(self, first=0):
        for start in range(first * self._rows, len(self._values), self._rows):
            time.sleep(self._seconds)
            self.read_rows += self._rows
            if self._fails_at is not None and self.read_rows > self._fails_at:
                raise FileNotFoundError("The file 'rows.parquet' has gone: put it back.")
            yield Table(self._values[start : start + self._rows])

    def count(self):
        return -(-len(self._values) // self._rows)

    def with_empty_rows(self):
        return self

    def identity(self):
        return hashlib.sha256(self._values.tobytes()).hexdigest()


def rows(n=600):
    """Two clouds that overlap: EM is slow on them."""
    rng = np.random.default_rng(3)
    return np.r_[rng.normal(0, 1, (n // 2, 2)), rng.normal(1.6, 1, (n // 2, 2))]


def mixture(k=2):
    return minorant.Mixture(Gaussian(), n_components=k)


def started(*means, floor=None):
    """A mixture that is climbed from where it stands."""
    k, covariance = len(means), np.stack([np.eye(2)] * len(means))
    component = Gaussian(mean=np.array(means), covariance=covariance, floor=floor)
    return minorant.Mixture(component, weights=np.full(k, 1 / k), n_components=k)


class Line(minorant.Model):
    """Two columns along a line. What is imported here would start JAX's threads in the mother."""

    slope: Array
    scale: Array = minorant.positive()

    def prior(self):
        import numpyro.distributions as dist

        return dist.Normal(jnp.zeros(1), 1.0).to_event(1)

    def likelihood(self, z):
        import numpyro.distributions as dist

        return dist.Normal(self.slope * z[0] + 0.8, self.scale).to_event(1)


@functools.cache  # traced and compiled once
def ridge(bend=0.5):
    """A bent ridge in three dimensions."""
    weight = np.arange(1.0, 4.0)

    def log_density(x):
        return -0.5 * jnp.sum(weight * x**2) - bend * (x[0] + x[1] - x[2] ** 2) ** 2

    return minorant.Target(log_density, x=minorant.unknowns.real(3))


def fitted(scene, checkpoint=None, **options):
    """One of the fits, in double precision."""
    given = (SCENES | ASCENTS)[scene]
    options = {**given, **options}
    data = options.pop("data", rows)
    data = data() if callable(data) else data
    with jax.enable_x64(True):
        model = options.pop("model")
        model = model() if isinstance(model, types.FunctionType) else model
        return fitting.fit(model, data, checkpoint=checkpoint, **options)


SCENES = {
    "starts": {"model": mixture(3), "solver": EM(Plain(), 0.0), "max_steps": 80},
    "quasi-newton": {
        "model": mixture(3),
        "solver": QuasiNewton(0.0),
        "max_steps": 30,
        "starts": Starts(n=4),
    },
    "chunks": {
        "model": started(
            [0.1, 0.0], [2.0, 2.0]
        ),  # from several starts, so few rows would be climbed on in memory
        "data": lambda: Slices(rows(1000), seconds=0.002),
        "solver": EM(Plain(), tolerance=0.0),
        "max_steps": 15,
    },
    "sweeps": {
        "model": started([0.1, 0.0], [2.0, 2.0]),
        "data": lambda: Slices(rows(1000), seconds=0.002),
        "solver": Incremental(EM(Plain(), tolerance=0.0), sweeps=12),
        "max_steps": 3,
    },
}


# Fits by stochastic ascent.
ASCENTS = {
    "encoder": {
        "model": Line(np.ones(2), np.ones(())),
        "data": lambda: Slices(rows(1000)),
        "posterior": minorant.Encoder(width=4, depth=1, batch=4),
        "solver": Ascent(accuracy=1e-2, max_steps=5000),
    },
    "target": {
        "model": lambda: ridge(),
        "data": None,
        "posterior": LowRank(rank=1),
        "accuracy": 0.5,
        "seconds": float("inf"),
    },
}


def fingerprint(fit):
    """A digest of every number of a fit but the seconds it took."""
    if isinstance(fit, TargetFit):
        numbers = [(rung.bound, rung.evidence, rung.member) for rung in fit.rungs]
        sentences = [rung.sentence for rung in fit.rungs]
        return f"{fit.outcome.name} {sentences} {_digest((numbers, fit.posterior.draws.points))}"
    trees = (fit.model, fit.state, fit.standardised, fit.trace, fit.bound, fit.objective)
    points = [climb.point for climb in fit.climbs]
    return f"{fit.outcome.name} {fit.starts} {_digest((trees, points))}"


def _digest(trees):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.asarray(leaf)
        digest.update(str((array.dtype, array.shape)).encode() + array.tobytes())
    return digest.hexdigest()


def answer(order):
    """One life of a fit: its digest, or its error, in a file."""
    climbing._SECONDS_PER_BLOCK = 1e-4  # blocks of few steps, as many as the clock says
    if "bytes" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes"], order["bytes"]))
    place = order["directory"] and minorant.Checkpoint(order["directory"], seconds=0)
    try:
        found = fingerprint(fitted(order["scene"], place))
    except BaseException:
        found = traceback.format_exc()
    with open(order["out"] + ".new", "w") as file:
        file.write(found)
    os.rename(order["out"] + ".new", order["out"])


def main():
    """Fork a child for every order that comes in, and say its number."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    _trees.known_classes(())
    for line in sys.stdin:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(json.loads(line))
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
