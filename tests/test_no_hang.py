"""Fits that hang for ever with a jaxlib whose batched LAPACK calls wait for each other's threads.

Each runs in a process of its own, so that a hang is a failure and not the end of the suite.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np, warnings
from minorant.estimators import GaussianMixture
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
rows = rng.normal(size=({n}, {d})) + 3 * rng.integers(0, 2, size=({n}, 1))
rows[rng.random(rows.shape) < {missing}] = np.nan
mixture = GaussianMixture({k}, covariance_prior={prior!r}, max_iter=3, n_init=4, random_state=0)
print(np.isfinite(mixture.fit(rows).lower_bound_))
"""
CASES = {
    "many matrices in a block": {"n": 800, "d": 20, "missing": 0.3, "k": 2, "prior": None},
    "many starts with a prior": {"n": 900, "d": 30, "missing": 0.0, "k": 8, "prior": "auto"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_ends(case):
    program = PROGRAM.format(**CASES[case])
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.stdout.strip() == "True", ran.stderr
