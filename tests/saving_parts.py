"""What the tests of saving share with a second process: a user's component, a fit's numbers."""

import hashlib
import sys

import jax
import numpy as np

import minorant
from minorant.components import Gaussian


class Own(Gaussian):
    """A component that is not one of minorant's."""


def rows():
    """Rows to score, one with a missing cell."""
    values = np.random.default_rng(9).normal(size=(30, 2)) * [100.0, 0.1]
    values[4, 1] = np.nan
    return values


def fingerprint(fit):
    """A digest of every number of the fit, and of everything it says about rows."""
    r = fit.posterior(rows())
    answers = [r.log_probability, fit.log_evidence(rows()), fit.impute(rows()), *fit.sample(5)]
    leaves = [*jax.tree.leaves(fit.standardised), *jax.tree.leaves(fit.state), *answers]
    digest = hashlib.sha256()
    for leaf in [*leaves, *jax.tree.leaves(fit.model), *fit.trace, fit.bound, fit.objective]:
        array = np.asarray(leaf)
        digest.update(str((array.dtype, array.shape)).encode() + array.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    for directory in sys.argv[1:]:
        print(fingerprint(minorant.load(directory)))
