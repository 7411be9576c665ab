"""A simulated series for the Kalman benchmarks, and how a call is timed; NumPy and JAX only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Law(NamedTuple):
    """z_t = A z_t-1 + N(0, Q), x_t = C z_t + N(0, R), z_1 ~ N(m, P)."""

    A: np.ndarray
    Q: np.ndarray
    C: np.ndarray
    R: np.ndarray
    m: np.ndarray
    P: np.ndarray


def series(n: int, l: int, d: int, gaps: float) -> tuple[Law, np.ndarray]:
    """A stable law and n rows of it, a share ``gaps`` of rows with a missing cell."""
    rng = np.random.default_rng(0)
    A = 0.95 * np.linalg.qr(rng.normal(size=(l, l)))[0]
    law = Law(A, np.eye(l), rng.normal(size=(d, l)), np.eye(d), np.zeros(l), np.eye(l))
    states = rng.normal(size=(n, l))
    for t in range(1, n):
        states[t] += A @ states[t - 1]
    x = states @ law.C.T + rng.normal(size=(n, d))
    rows = rng.random(n) < gaps
    x[rows, rng.integers(d, size=int(rows.sum()))] = np.nan
    return law, x


def timed(call: Callable[[], Any], rounds: int = 7) -> list[float]:
    """Seconds of each of some calls, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return seconds
