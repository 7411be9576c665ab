"""Linear Gaussian state space models the slow and obvious way: one normal density over everything.

All states and all observed cells of a table are jointly normal, so the posterior is a conditional
normal of a dense matrix and an EM step is a sum over rows of its blocks. Cubic in the number of
cells; for small tables. ``Law`` holds NumPy arrays in the notation of the model's docstring.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Law(NamedTuple):
    """z_1 ~ N(m, P), z_t = A z_t-1 + B u + b + N(0, Q), x_t = C z_t + D u + c + N(0, R)."""

    A: np.ndarray
    B: np.ndarray
    b: np.ndarray
    Q: np.ndarray
    C: np.ndarray
    D: np.ndarray
    c: np.ndarray
    R: np.ndarray
    m: np.ndarray
    P: np.ndarray


class Dense(NamedTuple):
    """Posterior mean (n, l) and covariance (n, l, n, l) of all states, and log p(observed)."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def random_law(rng: np.random.Generator, l: int, d: int, m: int = 0, full: bool = False) -> Law:
    """A stable law with every part in use."""
    A = 0.8 * np.linalg.qr(rng.normal(size=(l, l)))[0] + 0.1 * rng.normal(size=(l, l))
    R = spread(rng, d) if full else np.diag(rng.uniform(0.2, 1.0, d))
    return Law(
        A, rng.normal(size=(l, m)), rng.normal(size=l), spread(rng, l), rng.normal(size=(d, l)),
        rng.normal(size=(d, m)), rng.normal(size=d), R, rng.normal(size=l), spread(rng, l),
    )  # fmt: skip


def spread(rng: np.random.Generator, size: int) -> np.ndarray:
    """A positive definite matrix with eigenvalues of at least 0.3."""
    root = rng.normal(size=(size, size))
    return root @ root.T / size + 0.3 * np.eye(size)


def simulated(
    rng: np.random.Generator, law: Law, start: np.ndarray, inputs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """States and rows, row by row."""
    states, rows = np.zeros((len(start), len(law.A))), np.zeros((len(start), len(law.C)))
    for t, first in enumerate(start):
        mean = law.m if first else law.A @ states[t - 1] + law.B @ inputs[t] + law.b
        states[t] = rng.multivariate_normal(mean, law.P if first else law.Q)
        seen = law.C @ states[t] + law.D @ inputs[t] + law.c
        rows[t] = rng.multivariate_normal(seen, law.R)
    return states, rows


def dense(law: Law, x: np.ndarray, start: np.ndarray, inputs: np.ndarray) -> Dense:
    """Condition the joint normal of states and cells on the cells that are there (not NaN)."""
    n, l = len(x), len(law.A)
    mean, K = np.zeros((n, l)), np.zeros((n, l, n, l))
    for t in range(n):
        if start[t]:
            mean[t], K[t, :, t] = law.m, law.P
            continue
        mean[t] = law.A @ mean[t - 1] + law.B @ inputs[t] + law.b
        for s in range(t):
            K[t, :, s] = law.A @ K[t - 1, :, s]
            K[s, :, t] = K[t, :, s].T
        K[t, :, t] = law.A @ K[t - 1, :, t - 1] @ law.A.T + law.Q
    flat, seen = K.reshape(n * l, n * l), ~np.isnan(x).ravel()
    C = np.kron(np.eye(n), law.C)[seen]
    away = (x - mean @ law.C.T - inputs @ law.D.T - law.c).ravel()[seen]
    S = C @ flat @ C.T + np.kron(np.eye(n), law.R)[np.ix_(seen, seen)]
    gain = np.linalg.solve(S, C @ flat).T
    log_det = np.linalg.slogdet(S)[1] if len(S) else 0.0
    square = away @ np.linalg.solve(S, away)
    return Dense(
        mean + (gain @ away).reshape(n, l),
        (flat - gain @ C @ flat).reshape(n, l, n, l),
        -0.5 * (log_det + square + len(away) * np.log(2 * np.pi)),
    )


def sequential_log_evidence(
    law: Law, x: np.ndarray, start: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
    """``log p(x_t | x_<t)``: differences of dense evidences of ever more rows."""
    n = len(x)
    totals = [dense(law, x[:t], start[:t], inputs[:t]).log_evidence for t in range(1, n + 1)]
    return np.diff(totals, prepend=0.0)


def em_step(
    law: Law, x: np.ndarray, start: np.ndarray, inputs: np.ndarray, weight: np.ndarray
) -> Law:
    """The parameters that maximise the expected log joint, every row's moments written out.

    With correlated noise missing cells are latent as well (rows without any cell left out); with
    independent noise each column is regressed over the rows in which it is there.
    """
    n, l = len(x), len(law.A)
    q = dense(law, x, start, inputs)
    moved, first = _Sums(), []
    for t in range(n):
        if start[t]:
            first.append(t)
            continue
        now, before = q.mean[t], q.mean[t - 1]
        side = np.r_[inputs[t], 1.0]
        v = np.r_[before, side]
        yy = np.outer(now, now) + q.covariance[t, :, t]
        yv, vv = np.outer(now, v), np.outer(v, v)
        yv[:, :l] += q.covariance[t, :, t - 1]
        vv[:l, :l] += q.covariance[t - 1, :, t - 1]
        moved.add(weight[t], yy, yv, vv)
    theta, Q = moved.solved()
    wide = weight[first]
    m = wide @ q.mean[first] / wide.sum()
    P = sum(
        weight[t] * (q.covariance[t, :, t] + np.outer(q.mean[t] - m, q.mean[t] - m)) for t in first
    )
    seen, R = _observation_step(law, x, inputs, weight, q)
    k = l + inputs.shape[1]
    return Law(
        theta[:, :l], theta[:, l:k], theta[:, k], Q, seen[:, :l], seen[:, l:k], seen[:, k], R, m,
        P / wide.sum(),
    )  # fmt: skip


class _Sums:
    """Weighted sums of second moments of a regression."""

    def __init__(self) -> None:
        self.count, self.yy, self.yv, self.vv = 0.0, 0.0, 0.0, 0.0

    def add(self, w: float, yy: np.ndarray, yv: np.ndarray, vv: np.ndarray) -> None:
        self.count += w
        self.yy, self.yv, self.vv = self.yy + w * yy, self.yv + w * yv, self.vv + w * vv

    def solved(self) -> tuple[np.ndarray, np.ndarray]:
        theta = np.linalg.solve(self.vv, self.yv.T).T
        return theta, (self.yy - theta @ self.yv.T) / self.count


def _observation_step(
    law: Law, x: np.ndarray, inputs: np.ndarray, weight: np.ndarray, q: Dense
) -> tuple[np.ndarray, np.ndarray]:
    n, d = x.shape
    l = len(law.A)
    independent = np.array_equal(law.R, np.diag(np.diag(law.R)))
    columns = [_Sums() for _ in range(d)]
    together = _Sums()
    for t in range(n):
        V, z = q.covariance[t, :, t], q.mean[t]
        v = np.r_[z, inputs[t], 1.0]
        vv = np.outer(v, v)
        vv[:l, :l] += V
        seen = ~np.isnan(x[t])
        for j in np.flatnonzero(seen):
            columns[j].add(weight[t], x[t, j] ** 2, x[t, j] * v, vv)
        if not seen.any():
            continue
        # x_m = a_m + G_m z + noise given x_o; x_o is itself
        G, a, rest = np.zeros((d, l)), np.where(seen, x[t], 0.0), np.zeros((d, d))
        gone = ~seen
        H = np.linalg.solve(law.R[np.ix_(seen, seen)], law.R[np.ix_(seen, gone)]).T
        known = law.D @ inputs[t] + law.c
        G[gone] = law.C[gone] - H @ law.C[seen]
        a[gone] = known[gone] + H @ (x[t] - known)[seen]
        rest[np.ix_(gone, gone)] = law.R[np.ix_(gone, gone)] - H @ law.R[np.ix_(seen, gone)]
        y = a + G @ z
        yv = np.outer(y, v)
        yv[:, :l] += G @ V
        together.add(weight[t], np.outer(y, y) + G @ V @ G.T + rest, yv, vv)
    if not independent:
        return together.solved()
    found = [one.solved() for one in columns]
    return np.stack([theta for theta, _ in found]), np.diag([r for _, r in found])
