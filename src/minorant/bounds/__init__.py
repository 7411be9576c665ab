r"""Lower bounds on log p(x), in nats, summed over rows with their weights, every constant kept.

For any density q over the latents,

.. math:: \log p(x) = E_q[\log p(x, z) - \log q(z)] + KL(q \,\|\, p(z \mid x)),

so the first term never exceeds log p(x), and equals it where q is the exact posterior. A bound is
called with (model, q, rows, key) and answers with an estimate; larger is better.

For stochastic ascent on a member of a family the same bounds come as functions of (log density,
member, noise) whose value is an unbiased estimate and whose derivative is a chosen estimator of
the gradient. All of them take log densities of many vectors at once, (s, p) -> (s,), or of those of
n rows side by side, (s, n, l) -> (s, n), and then give a bound for each row:

======================== ============================================================
``reparametrised_elbo``  one pass; the best while q is far from the target
``path_elbo``            one more pass; no variance where q is the target: the default
``score_function_elbo``  needs no derivative of the target, which may jump; much noise
``importance_weighted``  a tighter bound; its gradient in q drowns in noise as k grows
``doubly_reparametrised`` the same bound with a gradient that does not
``renyi``                between the two kinds of bound, by alpha
======================== ============================================================
"""

from minorant.bounds.gradients import (
    LogDensity,
    doubly_reparametrised,
    importance_weighted,
    path_elbo,
    renyi,
    reparametrised_elbo,
    score_function_elbo,
)
from minorant.bounds.objects import (
    AbstractBound,
    Elbo,
    ImportanceWeighted,
    Renyi,
    log_joint_table,
)

__all__ = [
    "AbstractBound",
    "Elbo",
    "ImportanceWeighted",
    "LogDensity",
    "Renyi",
    "doubly_reparametrised",
    "importance_weighted",
    "log_joint_table",
    "path_elbo",
    "renyi",
    "reparametrised_elbo",
    "score_function_elbo",
]
