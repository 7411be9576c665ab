"""Items, answers and the slow joint density that the tests of latent trait models share."""

from __future__ import annotations

import numpy as np
import truth_quadrature as truth

from minorant import datasets
from minorant.models import (
    GeneralizedPartialCredit,
    GradedResponse,
    PartialCredit,
    ThreeParameter,
    TwoParameter,
)

KINDS = {
    "two": TwoParameter(np.array([[1.2], [-0.7]]), np.array([[0.3], [-1.0]])),
    "three": ThreeParameter(np.array([[1.5]]), np.array([[-0.4]]), np.array([0.2])),
    "graded": GradedResponse(np.array([[1.1]]), np.array([[1.5, 0.2, -1.3]])),
    "generalised": GeneralizedPartialCredit(np.array([[0.8]]), np.array([[0.5, -0.4]])),
    "partial": PartialCredit(np.array([[0.7, 0.1]]), np.ones((1, 1))),
}
CURVE = {"generalised": "adjacent", "partial": "adjacent"}


def as_items(model):
    """The model's items for the slow twin, in the order of the stacks."""
    found = []
    for item in model.items:
        kind = next(k for k, one in KINDS.items() if type(one) is type(item))
        for j in range(len(item.intercepts)):
            low = {"guessing": item.guessing[j]} if kind == "three" else {}
            own = {"slope": np.asarray(item.slopes)[j], "intercepts": item.intercepts[j], **low}
            found.append((CURVE.get(kind, kind), own))
    return found


def slow_log_joint(model, answers, group):
    items = as_items(model)

    def log_density(z):
        prior = truth.log_prior(z, model.mean[group], model.covariance[group])
        return prior + truth.log_answers(answers, z, items)

    return log_density


PATTERN = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [1, 1.0]])


def simulated(seed=0, n=300):
    """Two correlated traits behind six items of three or four answers; some answers missing."""
    rng = np.random.default_rng(seed)
    traits = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], n)
    reach = traits @ (1.3 * PATTERN).T + rng.logistic(size=(n, 6))
    cuts = np.array([-1.0, 0.4, 1.2])
    answers = (reach[..., None] > cuts[:3]).sum(-1).astype(float)
    answers[:, :3] = reach[:, :3] > 0.2
    answers[rng.random(answers.shape) < 0.1] = np.nan
    return answers


def lsat():
    table = datasets.load("lsat6")
    return np.column_stack([table[f"item_{j}"] for j in range(1, 6)]), table["persons"]
