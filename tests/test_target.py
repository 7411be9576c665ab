"""Targets from a plain function: finite unknowns by enumeration, derived values, export, input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import minorant
from minorant import unknowns
from minorant.targets import Target

ROWS = np.array([-0.5, 0.4, 3.1])


def changepoint(mean, label):
    """Three rows, each from N(mean[label], 1); labels have probabilities 0.3 and 0.7."""
    prior = jax.scipy.stats.norm.logpdf(mean, 0, 3).sum()
    log_label = jnp.log(jnp.array([0.3, 0.7]))[label].sum()
    return prior + log_label + jax.scipy.stats.norm.logpdf(ROWS, mean[label]).sum()


@pytest.fixture(scope="module")
def labelled():
    return Target(
        changepoint,
        derived=lambda mean, label: {"first": mean[label[0]], "same": label[0] == label[1]},
        mean=unknowns.ordered(2),
        label=unknowns.finite(2, 3),
    )


def enumerated(mean):
    """Every labelling and ``log p(rows, labels, mean)``."""
    every = np.array(list(itertools.product([0, 1], repeat=3)))
    log_p = stats.norm.logpdf(ROWS, mean[every]).sum(1) + np.log([0.3, 0.7])[every].sum(1)
    return every, log_p + stats.norm.logpdf(mean, 0, 3).sum()


def test_finite_unknowns_are_summed_out(labelled):
    free = np.array([-0.4, 0.8])
    every, joint = enumerated(np.array([-0.4, -0.4 + np.exp(0.8)]))
    probability = special.softmax(joint)
    with jax.enable_x64(True):
        log_p, values = jax.device_get((labelled.log_density(free), labelled.values(free)))
    assert labelled.size == 2
    assert float(log_p) == pytest.approx(special.logsumexp(joint) + 0.8, abs=1e-12)
    ones = probability @ every
    np.testing.assert_allclose(values["label"], np.stack([1 - ones, ones], 1), atol=1e-12)
    mean = np.array([-0.4, -0.4 + np.exp(0.8)])
    assert float(values["first"]) == pytest.approx(probability @ mean[every[:, 0]])
    assert float(values["same"]) == pytest.approx(probability @ (every[:, 0] == every[:, 1]))


def test_probabilities_of_finite_unknowns_are_in_the_summary():
    """Two means 3 apart, against a grid over the first."""
    target = Target(
        lambda low, label: changepoint(jnp.stack([low, low + 3.0]), label),
        low=unknowns.real(),
        label=unknowns.finite(2, 3),
    )
    fit = minorant.fit(target, posterior="full-rank")
    grid = np.linspace(-10, 10, 801)
    joint = np.stack([enumerated(np.array([low, low + 3.0]))[1] for low in grid])
    ones = special.softmax(joint).sum(0) @ enumerated(np.zeros(2))[0]
    table, estimate = fit.summary(), fit.rung.evidence
    for j, expected in enumerate(ones):
        row = table[f"label[{j}, 1]"]
        assert abs(row.mean - expected) < 4 * row.mean_error
    log_evidence = special.logsumexp(joint) + np.log(grid[1] - grid[0])
    assert abs(float(estimate.value) - log_evidence) < 4 * float(estimate.standard_error)


def test_draws_and_diagnostics_go_to_arviz(labelled):
    pytest.importorskip("arviz_base")
    fit = minorant.fit(labelled, posterior="full-rank")
    tree = fit.to_arviz(50, random_state=3)
    posterior = tree["posterior"]
    assert posterior["mean"].shape == (1, 50, 2)
    assert posterior["label"].shape == (1, 50, 3, 2)
    np.testing.assert_array_equal(posterior["mean"].values[0], fit.sample(50, 3)["mean"])
    assert posterior.attrs["family"] == fit.rung.family
    assert posterior.attrs["bound"] == float(fit.bound.value)
    assert posterior.attrs["pareto_k"] == fit.rung.reliability
    assert list(tree.children) == ["posterior"]


def test_without_arviz_the_extra_is_named(labelled, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arviz_base", None)
    fit = minorant.fit(labelled, posterior="mode")
    with pytest.raises(ImportError, match=r"pip install 'minorant\[arviz\]'"):
        fit.to_arviz()


def zero(**known):
    return 0.0 * sum(jnp.sum(value) for value in known.values())


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Target(zero), ValueError, "needs continuous unknowns"),
        (lambda: Target(zero, z=unknowns.finite(2)), ValueError, "needs continuous unknowns"),
        (lambda: Target(zero, a=3.0), TypeError, "a must be an unknown.* got float"),
        (
            lambda: Target(zero, a=unknowns.real(), z=unknowns.finite(2, 13)),
            ValueError,
            "take 8192 values together, more than 4096",
        ),
        (
            lambda: Target(lambda a: a, a=unknowns.real(3)),
            ValueError,
            r"one number; it returned shape \(3,\)",
        ),
        (
            lambda: Target(lambda a: a if a > 0 else -a, a=unknowns.real()),
            TypeError,
            "jnp.where",
        ),
        (
            lambda: Target(lambda a: np.exp(a) * float(a), a=unknowns.real()),
            TypeError,
            "jax.numpy",
        ),
        (
            lambda: Target(zero, start={"a": -1.0}, a=unknowns.positive()),
            ValueError,
            "not strictly inside its support",
        ),
        (
            lambda: Target(zero, start={"a": np.ones(2)}, a=unknowns.positive()),
            ValueError,
            r"a must have shape \(\); got \(2,\)",
        ),
        (
            lambda: Target(zero, start={}, a=unknowns.positive()),
            ValueError,
            r"\['a'\] are missing",
        ),
        (
            lambda: Target(zero, derived=lambda a: a, a=unknowns.real()),
            TypeError,
            "must return a dict",
        ),
    ],
)
def test_bad_input_is_named(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
