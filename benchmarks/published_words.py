"""Published targets about words and topics, with the constants of `published_models.py`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from benchmarks.published_data import Data
from minorant import unknowns as u
from minorant.targets import Target


def word_counts(data: Data) -> np.ndarray:
    """Words by document."""
    found = np.zeros((int(data["M"]), int(data["V"])))
    np.add.at(found, (data["doc"].astype(int) - 1, data["w"].astype(int) - 1), 1.0)
    return found


def naive_bayes(data: Data) -> Target:
    topic = data["z"].astype(int) - 1
    documents = np.bincount(topic, minlength=4)
    words = np.stack([word_counts(data)[topic == k].sum(0) for k in range(4)])

    def log_density(theta, phi):
        prior = ((data["alpha"] - 1) * jnp.log(theta)).sum()
        prior += ((data["beta"] - 1) * jnp.log(phi)).sum()
        return prior + (documents * jnp.log(theta)).sum() + (words * jnp.log(phi)).sum()

    return Target(log_density, theta=u.simplex(4), phi=u.simplex(4, 10))


def naive_bayes_exactly(data: Data) -> float:
    """Its log evidence: Dirichlet integrals."""
    topic = data["z"].astype(int) - 1
    words = np.stack([word_counts(data)[topic == k].sum(0) for k in range(4)])
    counts = [data["alpha"] + np.bincount(topic, minlength=4), *(data["beta"] + words)]
    return float(sum(gammaln(one).sum() - gammaln(one.sum()) for one in counts))


def test_simplex(data: Data) -> Target:
    words = np.bincount(data["doc"].astype(int) - 1, minlength=4) + data["beta"] - 1
    return Target(lambda phi: (words * jnp.log(phi)).sum(), phi=u.simplex(4))


def lda(data: Data) -> Target:
    counts = word_counts(data)

    def log_density(theta, phi):
        prior = ((data["alpha"] - 1) * jnp.log(theta)).sum()
        prior += ((data["beta"] - 1) * jnp.log(phi)).sum()
        return prior + (counts * jnp.log(theta @ phi)).sum()

    return Target(log_density, theta=u.simplex(25, 2), phi=u.simplex(2, 5))


def lda_summed(data: Data) -> Target:
    """Every document's topics integrated out, on a grid of log odds."""
    counts = word_counts(data)
    logits = np.arange(-30.0, 30.1, 0.25)
    log_share = np.stack([-np.logaddexp(0, -logits), -np.logaddexp(0, logits)])
    log_weight = data["alpha"] @ log_share + np.log(0.25)

    def log_density(phi):
        words = jnp.logaddexp(*(log_share[:, :, None] + jnp.log(phi)[:, None]))
        prior = ((data["beta"] - 1) * jnp.log(phi)).sum()
        return prior + logsumexp(counts @ words.T + log_weight, axis=1).sum()

    return Target(log_density, phi=u.simplex(2, 5))
