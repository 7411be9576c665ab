"""Rows annealed both ways, against closed forms and fine quadrature."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy import special, stats

import minorant
from minorant.evidence import row_settling, schedule
from minorant.evidence.kernels import piece

dist = pytest.importorskip("numpyro.distributions")


class Rates(minorant.Model):
    """Counts with a gamma rate: the evidence is negative binomial, the posterior skewed."""

    shape: Array = minorant.positive()

    def prior(self):
        return dist.Gamma(self.shape, 0.5)

    def likelihood(self, z):
        return dist.Poisson(jnp.full(1, z)).to_event(1)


class Folded(minorant.Model):
    """Two modes in every row: z and -z explain it alike, the prior prefers one."""

    spread: Array = minorant.positive()

    def prior(self):
        return dist.Normal(jnp.ones(1), 3.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(jnp.abs(z), self.spread).to_event(1)


@pytest.fixture(scope="module")
def rates():
    counts = np.random.default_rng(0).negative_binomial(0.7, 0.5, size=(30, 1)).astype(float)
    return minorant.fit(Rates(np.array(0.7)), counts, progress=False), counts


@pytest.fixture(scope="module")
def found(rates):
    fit, counts = rates
    return fit.evidence(counts, upper=True, accuracy=0.03)


def exact(fit, counts):
    shape = float(fit.model.shape)
    return stats.nbinom.logpmf(counts[:, 0], shape, 0.5 / 1.5)


def test_every_row_is_held_and_so_is_the_total(rates, found):
    truth = exact(*rates)
    assert found.lower < truth.sum() < found.upper
    held = (found.rows_lower < truth) & (truth < found.rows_upper)
    assert held.mean() > 0.9
    z = (found.estimate - truth.sum()) / found.standard_error
    assert abs(z) < 4
    assert found.verdict.startswith("Tight")
    assert (found.rows_upper - found.rows_lower).mean() <= 0.03


def test_the_gap_is_that_of_the_bound(rates, found):
    fit, counts = rates
    weighed = fit.evidence(counts)
    # Both average the bound over draws of their own.
    assert abs((found.estimate - found.gap) - weighed.lower) < 0.05 * weighed.gap + 0.3
    assert found.gap > 0


def test_weights_count_rows(rates):
    fit, counts = rates
    weights = np.zeros(len(counts))
    weights[[2, 5]] = [1.0, 3.0]
    found = fit.evidence(counts, weights=weights, upper=True, accuracy=0.1)
    truth = exact(fit, counts)
    assert found.lower < truth[2] + 3 * truth[5] < found.upper


def folded(spread, rows):
    fit = minorant.fit(Folded(np.array(spread)), rows, fixed=lambda m: m.spread, progress=False)
    grid = np.linspace(-30, 30, 60001)
    joint = stats.norm.logpdf(grid, 1, 3) + stats.norm.logpdf(rows, np.abs(grid), spread)
    return fit, special.logsumexp(joint, axis=1) + np.log(grid[1] - grid[0])


@pytest.fixture(scope="module")
def mirrored():
    """The modes of a row are up to 47 of its standard deviations apart; those of the last, one."""
    rows = np.array([[6.0], [7.0], [4.2], [0.1]])
    return rows, *folded(0.3, rows)


def test_modes_that_q_missed_are_joined_and_named(mirrored):
    rows, fit, truth = mirrored
    found = fit.evidence(rows, upper=True)
    assert (found.rows_lower < truth).all()
    assert (found.rows_upper > truth).all()
    assert (found.rows_upper - found.rows_lower).mean() < 0.1
    assert "In 3 row(s) (0, 1, 2) q missed modes" in found.verdict
    # By the prior of both modes, the mirror image of 4.2 holds 28% of its row.
    share = 1 / (1 + np.exp(stats.norm.logpdf(4.2, 1, 3) - stats.norm.logpdf(-4.2, 1, 3)))
    assert abs(found.rows_gap[2] + np.log1p(-share)) < 0.05


def test_rows_whose_modes_nobody_looks_for_are_too_low(mirrored, monkeypatch):
    """What far chains are for: without them both ends agree, and are wrong."""
    rows, fit, truth = mirrored
    blind(monkeypatch)
    found = fit.evidence(rows, upper=True)
    assert (found.rows_upper < truth - 0.05)[:3].all()


def blind(monkeypatch):
    """No chain comes from far away."""
    monkeypatch.setattr(row_settling, "_far", lambda block, plan, own: own.places)


@pytest.mark.parametrize("end", ["time", "interrupt"])
def test_rows_without_time_for_chains_have_a_lower_end_alone(rates, monkeypatch, end):
    fit, counts = rates
    if end == "interrupt":
        monkeypatch.setattr(schedule, "piece", interrupted)
    found = fit.evidence(counts, upper=True, seconds=1e-9 if end == "time" else 60.0)
    truth = exact(fit, counts)
    assert found.lower < truth.sum() < found.upper == np.inf
    assert "no upper end" in found.verdict
    assert ("interrupted" in found.verdict) == (end == "interrupt")


def interrupted(path, chains, plan, *rest):
    """The user stops the first pass that takes steps."""
    if plan.count > 0:
        raise KeyboardInterrupt
    return piece(path, chains, plan, *rest)


def test_a_model_that_is_exact_stays_an_equality():
    rows = np.random.default_rng(1).normal(size=(20, 1))
    mixture = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
    fit = minorant.fit(mixture, rows, progress=False)
    found = fit.evidence(rows, upper=True)
    assert found.lower == found.upper == found.estimate


def test_twins_have_an_upper_end_without_any_chain_that_must_arrive(rates):
    fit, counts = rates
    found = minorant.evidence.twins(fit, counts, n=60, accuracy=0.05)
    error = found.simulated.standard_error
    # Both ends of the drawn rows agree to a few hundredths of a nat, and never cross for real.
    assert -4 * error < found.simulated.value < 0.05 + 4 * error
    assert "nothing speaks against" in found.sentence
    assert found.real.lower < exact(fit, counts).sum() < found.real.upper


def test_twins_give_away_chains_that_do_not_arrive(mirrored, monkeypatch):
    """Drawn rows start in either mode, q explains only one of them, and nobody looks further."""
    rows, fit, _ = mirrored
    blind(monkeypatch)
    found = minorant.evidence.twins(fit, rows, n=60)
    assert found.simulated.value > found.between.value + 1.0
    assert "do not arrive" in found.sentence


def test_twins_of_an_exact_model_are_refused():
    rows = np.random.default_rng(1).normal(size=(20, 1))
    mixture = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
    fit = minorant.fit(mixture, rows, progress=False)
    with pytest.raises(TypeError, match="twins are for"):
        minorant.evidence.twins(fit, rows)
