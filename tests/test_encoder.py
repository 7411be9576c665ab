"""One encoder for all rows, against factor analysis, whose evidence and posterior are closed."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy import stats

import minorant
from minorant.models import PPCA
from minorant.solvers import Ascent

dist = pytest.importorskip("numpyro.distributions")

RNG = np.random.default_rng(0)
LOADINGS = RNG.normal(size=(5, 2))
ROWS = RNG.normal(size=(150, 2)) @ LOADINGS.T + 0.7 * RNG.normal(size=(150, 5)) + 2.0
SMALL = minorant.Encoder(width=16, depth=1)


class TwoFactors(minorant.Model):
    """Probabilistic principal components: a linear encoder is exact here."""

    loadings: Array
    offset: Array
    scale: Array = minorant.positive()

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.loadings @ z + self.offset, self.scale).to_event(1)


START = TwoFactors(0.5 * RNG.normal(size=(5, 2)), np.zeros(5), np.ones(()))


def exact_evidence(model, rows):
    covariance = model.loadings @ model.loadings.T + model.scale**2 * np.eye(5)
    return stats.multivariate_normal(model.offset, covariance).logpdf(rows)


@pytest.fixture(scope="module")
def fitted():
    with jax.enable_x64(True):
        yield minorant.fit(START, ROWS, posterior=SMALL)


def test_the_bound_reaches_the_highest_evidence_of_all_parameters(fitted):
    """The default accuracy is 1e-4 nats per row for each of two stages: 0.001 in all is allowed."""
    with jax.enable_x64(True):
        highest = minorant.fit(PPCA(2), ROWS).bound
    assert fitted.outcome.ok
    exact = exact_evidence(fitted.model, ROWS).sum()
    assert highest - 0.001 * len(ROWS) < fitted.bound < exact + 0.02
    assert exact < highest + 1e-6
    assert "one encoder" in fitted.explanation
    assert fitted.n_parameters == 16


def test_the_gap_is_told_in_parts(fitted):
    evidence = fitted.evidence(ROWS)
    split = evidence.split
    exact = exact_evidence(fitted.model, ROWS)
    np.testing.assert_allclose(evidence.rows_estimate, exact, atol=1e-6)  # q* is exact here
    np.testing.assert_allclose(split.rows_approximation, 0.0, atol=1e-6)
    assert -4 * split.monte_carlo <= split.amortisation < 0.001 * len(ROWS)
    assert abs(split.approximation + split.amortisation - evidence.gap) < 1e-9
    assert split.amortisation == pytest.approx(split.rows_amortisation.sum())
    assert "amortisation" in evidence.verdict


def test_the_annealed_gap_is_told_in_parts_too(fitted):
    """Of rows unlike those of the climb, which the encoder misses and a row's own q does not."""
    rows = 2.0 + 6.0 * np.random.default_rng(1).normal(size=(4, 5))
    evidence = fitted.evidence(rows, upper=True)
    exact, split = exact_evidence(fitted.model, rows), evidence.split
    np.testing.assert_allclose([evidence.lower, evidence.upper], exact.sum(), atol=1e-5)
    np.testing.assert_allclose(split.rows_approximation, 0.0, atol=1e-5)
    assert split.amortisation > 4 * split.monte_carlo
    np.testing.assert_allclose(
        split.rows_approximation + split.rows_amortisation, evidence.rows_gap
    )
    assert "(amortisation)" in evidence.verdict


def test_new_rows_are_encoded_and_can_be_refined(fitted):
    """Against the normal posterior of rows unlike those of the climb."""
    rows = 2.0 + 6.0 * np.random.default_rng(1).normal(size=(4, 5))
    model = fitted.model
    precision = np.eye(2) + model.loadings.T @ model.loadings / model.scale**2
    mean = (rows - model.offset) @ model.loadings @ np.linalg.inv(precision) / model.scale**2
    encoded, refined = fitted.posterior(rows), fitted.posterior(rows, refine=True)
    np.testing.assert_allclose(refined.mean, mean, atol=1e-5)
    np.testing.assert_allclose(refined.covariance[0], np.linalg.inv(precision), atol=1e-5)
    away = np.abs(np.asarray(encoded.mean) - mean).max()
    assert 1e-3 < away < 3.0
    split = fitted.evidence(rows).split
    assert split.amortisation > 4 * split.monte_carlo
    np.testing.assert_allclose(fitted.log_evidence(ROWS).sum(), fitted.bound)


def test_it_is_kept_on_disk(fitted, tmp_path):
    minorant.save(fitted, tmp_path / "fit")
    again = minorant.load(tmp_path / "fit", classes=(TwoFactors,))
    np.testing.assert_array_equal(again.log_evidence(ROWS[:9]), fitted.log_evidence(ROWS[:9]))
    assert again.model.family.bound == fitted.model.family.bound


def test_the_same_seed_gives_the_same_answer_and_a_stop_keeps_what_was_reached(fitted, float64):
    seen = []

    def stop(progress):
        seen.append(progress.bound)
        return len(seen) < 4

    def broken_off(progress):
        if not stop(progress):
            raise KeyboardInterrupt

    def short(callback):
        seen.clear()
        return minorant.fit(START, ROWS, posterior=SMALL, callbacks=(callback,))

    runs = [short(stop), short(broken_off)]
    assert runs[1].outcome is minorant.Outcome.INTERRUPTED
    assert runs[0].outcome is minorant.Outcome.INTERRUPTED
    np.testing.assert_array_equal(runs[0].model.loadings, runs[1].model.loadings)
    assert runs[0].bound == runs[1].bound
    assert seen == sorted(seen)
    further = minorant.resume(runs[0], ROWS, callbacks=(lambda progress: progress.steps < 700,))
    assert runs[0].bound <= further.bound + 1.0
    assert fitted.bound > runs[0].bound


def test_weights_and_missing_cells_have_their_say(float64):
    """A row of weight 0 says nothing; twice the weight of all rows is twice the bound."""
    rows, weights = ROWS.copy(), np.ones(150)
    rows[np.random.default_rng(2).random(rows.shape) < 0.2] = np.nan
    rows[np.isnan(rows).all(1), 0] = 2.0
    rows[:10], weights[:10] = 50.0, 0.0
    short = Ascent(accuracy=1e-2)
    fit = minorant.fit(START, rows, posterior=SMALL, weights=2 * weights, solver=short)
    model = fit.model
    covariance = model.loadings @ model.loadings.T + model.scale**2 * np.eye(5)
    exact = 0.0
    for row in rows[10:]:
        seen = ~np.isnan(row)
        marginal = stats.multivariate_normal(model.offset[seen], covariance[seen][:, seen])
        exact += 2 * marginal.logpdf(row[seen])
    assert fit.model.family.network.gaps
    assert exact - 0.3 * 280 < fit.bound < exact + 0.1
    assert abs(fit.evidence(rows, weights=2 * weights).estimate - exact) < 1e-4


def test_another_bound_is_climbed_where_it_is_asked_for(float64):
    """Of four draws, stopped far from the top: above the ELBO of the same q, below log p(X)."""
    short, bound = Ascent(accuracy=0.1, max_steps=400), minorant.bounds.ImportanceWeighted(4)
    fit = minorant.fit(START, ROWS, posterior=SMALL, bound=bound, solver=short)
    family = dataclasses.replace(fit.model.family, bound=minorant.bounds.Elbo())
    exact = exact_evidence(fit.model, ROWS).sum()
    elbo = fit._replace(standardised=fit.standardised.bounded(family)).log_evidence(ROWS).sum()
    assert elbo + 1.0 < fit.bound < exact
    assert "importance-weighted bound of 4 draws" in fit.explanation


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"posterior": "encode"}, ValueError, "posterior must be one of"),
        ({"posterior": 3}, TypeError, "a minorant.Encoder or"),
        ({"posterior": "encoder", "bound": 3}, TypeError, "an object of minorant.bounds"),
        ({"bound": minorant.bounds.Renyi()}, ValueError, "bound= is for an encoder"),
        ({"posterior": SMALL, "solver": minorant.EM()}, TypeError, "minorant.solvers.Ascent"),
        ({"solver": Ascent()}, TypeError, "minorant.QuasiNewton here"),
    ],
)
def test_what_cannot_be_asked_for(options, kind, sentence, float64):
    with pytest.raises(kind, match=sentence):
        minorant.fit(START, ROWS, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"family": "flow"}, "family must be one of"),
        ({"held_out": 1.0}, "held_out must be at least 0 and below 1"),
    ],
)
def test_encoders_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        minorant.Encoder(**options)


def test_an_encoder_of_other_columns_is_refused(fitted, float64):
    with pytest.raises(ValueError, match="takes 5 columns"):
        minorant.fit(
            TwoFactors(np.ones((4, 2)), np.zeros(4), np.ones(())),
            ROWS[:, :4],
            posterior=fitted.model.family,
        )
    with pytest.raises(ValueError, match="refine= is for a fit with an encoder"):
        fitted._replace(model=START, standardised=START).posterior(ROWS, refine=True)
