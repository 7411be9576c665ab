"""The evidence's derivative by Fisher's identity, and the filter in lanes: against a plain loop."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_kalman as truth
from helpers import quick_jit
from test_kalman import chain_of, observed_of, whitened
from test_state_space import START, model_of, rows_of, scene

from minorant._parameters import from_vector, to_vector
from minorant.models import _state_space_score as score
from minorant.posteriors._kalman_filter import filtered
from minorant.posteriors._kalman_lanes import filtered_in_lanes

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def _always(monkeypatch):
    """By the smoother however few the rows."""
    monkeypatch.setattr(score, "_FEW", 0)


def by_rows(model, rows):
    """The weighted evidence by the filter, which is differentiated as it stands."""
    return (rows.weight * model.log_evidence(rows, model.prepare())).sum()


def by_smoother(model, rows):
    """The same, its derivative by Fisher's identity."""
    return model.summed_log_evidence(rows, model.prepare())


def derivatives(evidence):
    """Value, gradient, and the second derivative along a direction, in free coordinates."""

    def along(model, rows, way):
        def total(point):
            return evidence(from_vector(model, point), rows)

        point = to_vector(model)
        return total(point), *jax.jvp(jax.grad(total), (point,), (way,))

    return quick_jit(along)


@pytest.mark.parametrize(("kind", "full", "m"), [("both", False, 2), ("complete", True, 0)])
@pytest.mark.usefixtures("_always")
def test_fisher_s_identity_is_the_derivative_of_the_filter(kind, full, m):
    """Gaps, inputs, groups, weights, correlated noise; every parameter learned."""
    _, model, x, inputs = scene(kind, full, m)
    rows = rows_of(x, START, inputs, np.where(np.cumsum(START) == 2, 3.0, 1.0))
    way = np.random.default_rng(0).normal(size=to_vector(model).size)
    found, known = (derivatives(one)(model, rows, way) for one in (by_smoother, by_rows))
    for one, other in zip(found, known, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("_always")
def test_singular_noise_is_left_to_the_filter():
    """An autoregression in companion form: the states have no joint density."""
    rng = np.random.default_rng(2)
    law = truth.random_law(rng, 2, 1)
    law = law._replace(A=np.array([[0.5, 0.2], [1.0, 0.0]]), Q=np.diag([1.0, 0.0]))
    start = np.arange(14) == 0
    rows = rows_of(truth.simulated(rng, law, start, np.zeros((14, 0)))[1], start)
    whole = model_of(law, False)

    def along(evidence):
        def total(transition):
            view = whole.prepare()
            chain = view.chain._replace(transition=transition)
            return evidence(view._replace(chain=chain), rows)

        return quick_jit(jax.grad(total))(law.A)

    def plain(view, rows):
        return score.look.log_densities(view, rows).sum()

    found, known = along(score.log_evidence), along(plain)
    assert np.abs(known).max() > 0.1
    np.testing.assert_allclose(found, known, atol=1e-10)


def test_rows_are_not_what_it_is_differentiated_by():
    _, model, x, inputs = scene("complete", False)
    rows = rows_of(x, START, inputs)

    def total(weight):
        return by_smoother(model, dataclasses.replace(rows, weight=weight))

    with pytest.raises(TypeError, match="by parameters"):
        jax.grad(total)(rows.weight)


def test_the_filter_in_lanes_is_the_filter():
    """Groups that end inside lanes, gaps everywhere, and a chain that never forgets."""
    rng, n = np.random.default_rng(8), 1024
    law = truth.random_law(rng, 3, 2)
    start = np.isin(np.arange(n), [0, 300, 301, 512])
    x = truth.simulated(rng, law, start, np.zeros((n, 0)))[1]
    x[rng.random(x.shape) < 0.3] = np.nan
    parts = whitened(law, x, start, np.ones(n), True)

    @quick_jit
    def both(chain, parts):
        observed = observed_of(parts)
        return filtered(chain, observed), filtered_in_lanes(chain, observed, lambda all: all)

    known, (found, settled) = both(chain_of(law), parts)
    assert bool(settled)
    for one, other in zip(found, known, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)
    still = law._replace(A=np.eye(3), Q=np.zeros((3, 3)), b=np.zeros(3))
    assert not bool(both(chain_of(still), parts | {"start": jnp.arange(n) == 0})[1][1])
