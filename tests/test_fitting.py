"""The loop and what is around it: resume, interrupt, callbacks, outcomes, progress, optima."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest
from helpers import assert_never_decreases
from scipy.stats import multivariate_normal

import minorant
from minorant import _config
from minorant._progress import Progress, Reporter
from minorant.components import Full, Gaussian
from minorant.result import Outcome
from minorant.solvers import EM, Anderson, Plain, Squarem
from minorant.solvers.em import aitken

K = 3


@pytest.fixture(scope="module")
def rows():
    """Three overlapping groups: EM needs dozens of steps."""
    rng = np.random.default_rng(4)
    centres = np.array([[0.0, 0.0], [2.2, 0.0], [0.0, 2.4]])
    return centres[rng.integers(0, K, 300)] + rng.normal(size=(300, 2))


@pytest.fixture(scope="module")
def start(rows):
    """A mixture with all parameters given: one lane, no starts to choose."""
    component = Gaussian(Full(), rows[[0, 40, 90]], np.repeat(np.eye(2)[None], K, 0))
    return minorant.Mixture(component, np.full(K, 1 / K), n_components=K)


def climbed(start, rows, **options):
    with _config.precision(np.float64):
        return minorant.fit(start, rows, **options)


@pytest.fixture(scope="module")
def whole(start, rows):
    return climbed(start, rows)


def test_a_resumed_climb_takes_the_very_steps_of_an_uninterrupted_one(start, rows, whole):
    first = climbed(start, rows, max_steps=7)
    assert first.outcome is Outcome.STEP_LIMIT
    with _config.precision(np.float64):
        second = minorant.resume(first, rows)
    np.testing.assert_array_equal(second.trace.objective, whole.trace.objective)
    np.testing.assert_array_equal(second.model.component.mean, whole.model.component.mean)


def test_the_bound_is_the_log_density_that_scipy_computes(whole, rows):
    component = whole.model.component
    pairs = zip(component.mean, component.covariance, strict=True)
    densities = [multivariate_normal(m, c).pdf(rows) for m, c in pairs]
    assert whole.bound == pytest.approx(np.log(whole.model.weights @ densities).sum(), rel=1e-12)


def test_ctrl_c_returns_the_best_fit_so_far(start, rows, monkeypatch):
    blocks = []

    def interrupt(progress):
        blocks.append(progress.steps)
        raise KeyboardInterrupt

    monkeypatch.setattr("minorant.climbing.TRACE_LENGTH", 5)
    fit = climbed(start, rows, callbacks=(interrupt,))
    assert fit.outcome is Outcome.INTERRUPTED
    assert fit.acceleration.steps == blocks[0] == len(fit.trace.bound) == 5
    assert fit.trace.objective[-1] == pytest.approx(fit.objective)


def test_a_callback_sees_the_climb_and_may_stop_it(start, rows, monkeypatch):
    monkeypatch.setattr("minorant.climbing.TRACE_LENGTH", 5)
    seen: list[Progress] = []

    def stop_at_the_second(progress):
        seen.append(progress)
        return len(seen) < 2

    fit = climbed(start, rows, callbacks=(stop_at_the_second,))
    assert fit.outcome is Outcome.INTERRUPTED
    assert [p.steps for p in seen] == [5, 10]
    assert seen[1].bound > seen[0].bound
    assert seen[1].model.component.mean.shape == (K, 2)


def test_throw_raises_the_sentence_and_keeps_the_fit(start, rows):
    with pytest.raises(minorant.FitError, match="step limit") as caught:
        climbed(start, rows, max_steps=3, throw=True)
    assert caught.value.fit.acceleration.steps == 3


@pytest.mark.parametrize("rule", [Plain(), Squarem(), Anderson()], ids=lambda r: type(r).__name__)
def test_every_rule_climbs_to_the_same_optimum(start, rows, whole, rule):
    fit = climbed(start, rows, solver=EM(rule, 1e-9))
    assert fit.outcome.ok
    assert_never_decreases(fit.trace.objective, 1e-9)
    assert fit.bound == pytest.approx(whole.bound, abs=300 * 1e-6)


def test_acceleration_saves_steps_and_says_how_many(start, rows, whole):
    plain = climbed(start, rows, solver=EM(Plain()))
    saved = plain.acceleration.steps - whole.acceleration.steps
    assert whole.acceleration.kept > 0
    assert saved > 0
    assert whole.acceleration.saved == pytest.approx(saved, rel=0.5)
    assert plain.acceleration.kept == 0


def test_the_stop_leaves_no_more_than_the_tolerance(start, rows):
    best = climbed(start, rows, solver=EM(Plain(), 1e-12), max_steps=20000).bound
    for tolerance in (1e-4, 1e-6):
        left = best - climbed(start, rows, tolerance=tolerance).bound
        assert left <= 3 * tolerance * len(rows)


def test_stopping_does_not_depend_on_the_number_of_rows(start, rows):
    one, four = climbed(start, rows), climbed(start, np.tile(rows, (4, 1)))
    assert one.acceleration.steps == four.acceleration.steps


def test_aitken_is_exact_on_geometric_gains():
    gains = 0.3 * 0.8 ** np.arange(2)
    rate, left = aitken(gains[0], gains[1], 0.0)
    assert float(rate) == pytest.approx(0.8, rel=1e-6)
    assert float(left) == pytest.approx((0.3 * 0.8 ** np.arange(2, 200)).sum(), rel=1e-5)
    assert float(aitken(0.1, 0.2, 0.0)[1]) == np.inf
    assert float(aitken(1e-12, 1e-12, 1e-9)[1]) == 0.0


def test_the_same_seed_gives_the_same_answer_to_the_last_bit(rows):
    model = minorant.Mixture(Gaussian(), n_components=K)
    one, two = (climbed(model, rows, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(one.model.component.covariance, two.model.component.covariance)
    assert [o.starts for o in one.optima] == [o.starts for o in two.optima]
    assert one.optima[0].distance == 0.0
    assert one.objective >= max(o.objective for o in one.optima) - 1e-7 * len(rows)


def test_known_starts_reach_the_optimum_of_a_label_permutation(rows, start, whole):
    order = np.array([2, 0, 1])
    component = Gaussian(Full(), rows[[0, 40, 90]][order], np.repeat(np.eye(2)[None], K, 0))
    permuted = minorant.Mixture(component, np.full(K, 1 / K), n_components=K)
    fit = climbed(permuted, rows)
    np.testing.assert_allclose(fit.model.component.mean, whole.model.component.mean[order], 1e-9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
        ({"posterior": "guess"}, "posterior must be one of"),
        ({"remedy": "pray"}, "remedy must be one of"),
        ({"fixed": lambda m: ()}, "fixed selects no parameter"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(start, rows, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        climbed(start, rows, **options)


def test_a_model_that_is_none_is_refused():
    with pytest.raises(TypeError, match="model must be an exact model"):
        minorant.fit(None, [[1.0]])


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_the_reporter_draws_on_a_terminal_unless_asked_not_to(monkeypatch, asked, stream):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream())
    reporter = Reporter(asked)
    reporter.update(Progress(10, 100, -5.0, 1e-3, 2.0, 3.0))
    reporter.close()
    escapes = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
    drawn = " ".join(escapes.sub("", sys.stderr.getvalue()).split())
    if stream is Terminal and asked is not False:
        assert "bound -5 nats" in drawn
        assert "1.00e-03 per row" in drawn
        assert "3 s left" in drawn
    else:
        assert "bound" not in drawn
