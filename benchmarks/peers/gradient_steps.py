"""Time of a gradient step, ours and by hand, in turn: ``... gradient_steps p family rounds``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np

import minorant
from benchmarks.bound_targets import log_density
from benchmarks.peers import gradient_hand as hand
from minorant import unknowns
from minorant.bounds import Elbo
from minorant.families.base import Objective
from minorant.posteriors import Flow
from minorant.posteriors.members import FullRank
from minorant.solvers._adam import BLOCK, Pace, begun, integer, parted, step_block

HAND = {"full-rank": hand.full_rank, "flow": hand.real_nvp}


def ours(p: int, family: str) -> Any:
    """A call that makes ``BLOCK`` of our steps."""
    target = minorant.Target(log_density(p), beta=unknowns.real(p))
    if family == "full-rank":
        start: Any = FullRank(np.zeros(p), 0.1 * np.eye(p))
    else:
        start = Flow.around(np.zeros(p), 0.1 * np.eye(p), key=jax.random.key(0))
    zero, one = np.zeros(()), np.ones(())
    floats, rest = eqx.partition(start, eqx.is_inexact_array)
    arrays, fixed = parted((Objective(Elbo(), target, zero, one), rest))
    pace = Pace(jax.random.key(1), integer(0), integer(BLOCK), np.asarray(1e-3, np.float32))
    state = begun(floats)
    return lambda: jax.block_until_ready(step_block(fixed, arrays, state, pace))


def by_hand(p: int, family: str) -> Any:
    """A call that makes as many by hand."""
    run, state = hand.steps(log_density(p), HAND[family](p))
    return lambda: jax.block_until_ready(run(state, jax.random.key(1), BLOCK))


def main() -> None:
    """Print both medians, in seconds a step, and of the compiling first calls."""
    p, family, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with jax.enable_x64(True):
        calls = {"ours": ours(p, family), "hand": by_hand(p, family)}
        found: dict[str, Any] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                seconds = time.perf_counter() - began
                if turn == 0:
                    found[f"{name}_first"] = seconds
                else:
                    found[name].append(seconds / BLOCK)
    found |= {name: statistics.median(found[name]) for name in calls}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
