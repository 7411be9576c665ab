"""Slow and obvious: chains whose transition differs from row to row, by enumeration and by loops.

``moves`` are (n, k, k) probabilities of the step into each row; a row that starts a group is
entered by ``initial``. NumPy and the standard library only.
"""

from __future__ import annotations

import itertools

import numpy as np
import truth
from truth_chain import log


def probabilities(coefficients: np.ndarray, inputs: np.ndarray, allowed=None) -> np.ndarray:
    """Multinomial logits, row by row."""
    k = len(coefficients)
    allowed = np.ones((k, k), bool) if allowed is None else allowed
    found = np.zeros((len(inputs), k, k))
    for t, u in enumerate(inputs):
        for i in range(k):
            weight = np.exp(coefficients[i] @ np.r_[1.0, u]) * allowed[i]
            found[t, i] = weight / weight.sum()
    return found


def log_joint(initial, moves, scores, path) -> float:
    """``log p(x, z)`` of one sequence."""
    total = log(initial)[path[0]] + scores[path[0], 0]
    steps = enumerate(itertools.pairwise(path), start=1)
    return total + sum(log(moves)[t, a, b] + scores[b, t] for t, (a, b) in steps)


def enumerated(initial, moves, scores) -> tuple[np.ndarray, np.ndarray, float, tuple]:
    """Marginals (k, n), pairs (n, k, k), ``log p(x)`` and the best path of one sequence."""
    k, n = scores.shape
    every = list(itertools.product(range(k), repeat=n))
    joints = np.array([log_joint(initial, moves, scores, path) for path in every])
    evidence = truth.log_sum([joint for joint in joints if joint > -np.inf])
    one, two = np.zeros((k, n)), np.zeros((n, k, k))
    for path, chance in zip(every, np.exp(joints - evidence), strict=True):
        for t, z in enumerate(path):
            one[z, t] += chance
            if t:
                two[t, path[t - 1], z] += chance
    return one, two, evidence, every[int(np.argmax(joints))]


def smoother(initial, moves, scores, start) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Marginals (k, n), pairs (n, k, k) and log scales (n,), row by row in logarithms."""
    (k, n), logs = scores.shape, log(moves)
    filtered, scale = np.zeros((k, n)), np.zeros(n)
    for t in range(n):
        predicted = log(initial)
        if not start[t]:
            predicted = np.logaddexp.reduce(filtered[:, t - 1][:, None] + logs[t], axis=0)
        scale[t] = np.logaddexp.reduce(predicted + scores[:, t])
        filtered[:, t] = predicted + scores[:, t] - scale[t]
    one, two, message = np.zeros((k, n)), np.zeros((n, k, k)), np.zeros(k)
    for t in reversed(range(n)):
        one[:, t] = np.exp(filtered[:, t] + message)
        ahead = scores[:, t] + message - scale[t]
        message = np.zeros(k)
        if not start[t]:
            two[t] = np.exp(filtered[:, t - 1][:, None] + logs[t] + ahead)
            message = np.logaddexp.reduce(logs[t] + ahead, axis=1)
    return one, two, scale


def viterbi(initial, moves, scores) -> np.ndarray:
    """The most probable path of one sequence."""
    (k, n), logs = scores.shape, log(moves)
    best, pointer = log(initial) + scores[:, 0], np.zeros((n, k), dtype=int)
    for t in range(1, n):
        ways = best[:, None] + logs[t]
        pointer[t] = np.argmax(ways, axis=0)
        best = ways.max(0) + scores[:, t]
    path = [int(np.argmax(best))]
    for t in range(n - 1, 0, -1):
        path.append(int(pointer[t, path[-1]]))
    return np.array(path[::-1])


def simulate(rng: np.random.Generator, coefficients, inputs, start) -> np.ndarray:
    """States of sequences that begin in any state."""
    k, moves = len(coefficients), probabilities(coefficients, inputs)
    states = np.zeros(len(inputs), dtype=int)
    for t in range(len(inputs)):
        chances = np.full(k, 1.0 / k) if start[t] else moves[t, states[t - 1]]
        states[t] = rng.choice(k, p=chances)
    return states


def expected_log_moves(coefficients, inputs, pairs, allowed=None) -> float:
    """``sum_t sum_ij pairs log A_ij(t)``."""
    moves = probabilities(coefficients, inputs, allowed)
    return float((pairs * np.log(np.where(moves > 0, moves, 1.0))).sum())
