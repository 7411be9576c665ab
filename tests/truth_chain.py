"""Slow and obvious: a hidden Markov chain by enumeration of all paths of states, and by loops.

NumPy and the standard library only. Scores are (k, n) ``log p(x_t | k)``; sequences are lists of
row numbers.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import truth

TRANSITION = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
INITIAL = np.array([0.5, 0.3, 0.2])


def log(probability: np.ndarray) -> np.ndarray:
    """Logarithms, -inf of 0."""
    with np.errstate(divide="ignore"):
        return np.log(probability)


def sequences(start: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each sequence."""
    return np.split(np.arange(len(start)), np.flatnonzero(start)[1:])


def log_joint(initial, transition, scores, path) -> float:
    """``log p(x, z)`` of one sequence."""
    first, moves = log(initial), log(transition)
    total = first[path[0]] + sum(scores[z, t] for t, z in enumerate(path))
    return total + sum(moves[a, b] for a, b in itertools.pairwise(path))


def paths(initial, transition, scores) -> tuple[list[tuple[int, ...]], np.ndarray, float]:
    """All paths of one sequence, their posterior probabilities, and ``log p(x)``."""
    k, n = scores.shape
    every = list(itertools.product(range(k), repeat=n))
    joints = [log_joint(initial, transition, scores, path) for path in every]
    possible = [joint for joint in joints if joint > -math.inf]
    if not possible:
        return every, np.full(len(every), np.nan), -math.inf
    evidence = truth.log_sum(possible)
    return every, np.exp(np.array(joints) - evidence), evidence


def marginals(initial, transition, scores) -> tuple[np.ndarray, np.ndarray, float]:
    """``p(z_t | x)`` (k, n), summed ``p(z_t-1, z_t | x)`` (k, k), ``log p(x)``; one sequence."""
    every, chances, evidence = paths(initial, transition, scores)
    k, n = scores.shape
    one, two = np.zeros((k, n)), np.zeros((k, k))
    for path, chance in zip(every, chances, strict=True):
        for t, z in enumerate(path):
            one[z, t] += chance
        for a, b in itertools.pairwise(path):
            two[a, b] += chance
    return one, two, evidence


def best_path(initial, transition, scores) -> tuple[int, ...]:
    """The most probable path of one sequence."""
    every, chances, _ = paths(initial, transition, scores)
    return every[int(np.argmax(chances))]


def log_filter(initial, transition, scores, start) -> tuple[np.ndarray, np.ndarray]:
    """``log p(z_t | x_1 .. x_t)`` and ``log p(x_t | x_1 .. x_t-1)``, row by row."""
    k, n = scores.shape
    first, moves = log(initial), log(transition)
    filtered, scale = np.zeros((k, n)), np.zeros(n)
    for t in range(n):
        predicted = first
        if not start[t]:
            predicted = np.logaddexp.reduce(filtered[:, t - 1][:, None] + moves, axis=0)
        joint = predicted + scores[:, t]
        scale[t] = np.logaddexp.reduce(joint)
        filtered[:, t] = joint - scale[t]
    return filtered, scale


def smoother(initial, transition, scores, start, weight) -> tuple[np.ndarray, ...]:
    """Marginals (k, n), weighted sums of first states and of pairs, and log scales (n,)."""
    filtered, scale = log_filter(initial, transition, scores, start)
    moves, (k, n) = log(transition), scores.shape
    message, marginal = np.zeros(k), np.zeros((k, n))
    pairs, first = np.zeros((k, k)), np.zeros(k)
    for t in reversed(range(n)):
        joint = filtered[:, t] + message
        marginal[:, t] = np.exp(joint - np.logaddexp.reduce(joint))
        ahead = scores[:, t] + message - scale[t]
        if start[t]:
            first += weight[t] * marginal[:, t]
            message = np.zeros(k)
            continue
        pairs += weight[t] * np.exp(filtered[:, t - 1][:, None] + moves + ahead)
        message = np.logaddexp.reduce(moves + ahead, axis=1)
    return marginal, first, pairs, scale


def viterbi(initial, transition, scores) -> tuple[np.ndarray, float]:
    """The most probable path of one sequence by dynamic programming, and its log joint."""
    moves, (k, n) = log(transition), scores.shape
    best, pointer = log(initial) + scores[:, 0], np.zeros((n, k), dtype=int)
    for t in range(1, n):
        ways = best[:, None] + moves
        pointer[t] = np.argmax(ways, axis=0)
        best = ways[pointer[t], np.arange(k)] + scores[:, t]
    path = [int(np.argmax(best))]
    for t in range(n - 1, 0, -1):
        path.append(int(pointer[t, path[-1]]))
    return np.array(path[::-1]), float(best.max())


def simulate(
    rng: np.random.Generator, n: int, means=(0.0, 4.0, 8.0)
) -> tuple[np.ndarray, np.ndarray]:
    """States of a chain of three, and a normal row for each."""
    states = np.zeros(n, dtype=int)
    for t in range(1, n):
        states[t] = rng.choice(3, p=TRANSITION[states[t - 1]])
    return states, np.asarray(means)[states] + rng.normal(size=n)
