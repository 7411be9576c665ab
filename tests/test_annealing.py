"""The certificate of targets against known normalisers; kernels, schedules, traps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats

import minorant
from minorant import unknowns
from minorant.evidence import certified, clock, schedule
from minorant.evidence.clock import Clock
from minorant.evidence.kernels import TargetPath, anneal, piece
from minorant.evidence.schedule import Runner, padded, resting
from minorant.posteriors.members import FullRank, MeanField

P = 3
MEAN = np.array([1.0, -2.0, 0.5])
FACTOR = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.3, 0.2, 0.3]])
LOG_Z = 3.25
WIDTH = np.array([1.8, 1.2, 0.4])
# The target as it looks from the path's coordinates.
CENTRE, ROOT = -0.2 / WIDTH, FACTOR / WIDTH[:, None]


def known(x):
    """A normal density times ``exp(LOG_Z)``."""
    away = jax.scipy.linalg.solve_triangular(FACTOR, x - MEAN, lower=True)
    log_volume = np.log(np.diag(FACTOR)).sum()
    return LOG_Z + stats.norm.logpdf(away).sum() - log_volume


def two_modes(weight, p):
    """Two unit normals 10 sd apart."""
    there = np.zeros(p)
    there[0] = 10.0

    def log_density(x):
        first = np.log(weight) + stats.norm.logpdf(x).sum()
        return jnp.logaddexp(first, np.log1p(-weight) + stats.norm.logpdf(x - there).sum())

    return minorant.Target(log_density, x=unknowns.real(p))


def funnel(v, x):
    return stats.norm.logpdf(v, 0.0, 2.0) + stats.norm.logpdf(x, 0.0, jnp.exp(v / 2)).sum()


def banana(x):
    bend = x[1] + 0.05 * (x[0] ** 2 - 9.0)
    return stats.norm.logpdf(x[0], 0.0, 3.0) + stats.norm.logpdf(bend)


@pytest.fixture(scope="module")
def target():
    return minorant.Target(known, x=unknowns.real(P))


@pytest.fixture(scope="module")
def wide(target):
    """From a q that is too wide and off its place."""
    q = FullRank(np.array([0.5, -1.0, 0.0]), np.diag([3.0, 2.0, 0.8]))
    return certified(target, q, accuracy=0.05)


def test_where_q_is_the_posterior_both_ends_are_its_normaliser(target):
    found = certified(target, FullRank(MEAN, FACTOR))
    np.testing.assert_allclose([found.lower, found.estimate, found.upper], LOG_Z, atol=1e-9)
    assert found.certificate.temperatures == 1
    assert abs(found.gap) < 1e-9


def test_a_q_that_is_off_still_brackets_the_normaliser(wide):
    certificate = wide.certificate
    assert wide.lower < LOG_Z < wide.upper
    assert wide.upper - wide.lower <= 0.05
    assert certificate.hard_limit < LOG_Z
    assert abs(wide.estimate - LOG_Z) < 4 * wide.standard_error
    assert wide.verdict.startswith("Tight")
    # KL of two normals in closed form.
    q, p = np.diag([9.0, 4.0, 0.64]), FACTOR @ FACTOR.T
    away = np.array([0.5, -1.0, 0.0]) - MEAN
    inverse = np.linalg.inv(p)
    trace = np.trace(inverse @ q) + away @ inverse @ away - P
    kl = 0.5 * (trace + np.log(np.linalg.det(p) / np.linalg.det(q)))
    error = float(certificate.bound.standard_error)
    assert abs(wide.gap - kl) < 4 * (error + wide.standard_error)


def test_the_table_says_what_the_record_holds(wide):
    text = str(wide)
    assert f"{wide.lower:.4f} .. {wide.upper:.4f}" in text
    assert "hard lower limit" in text
    assert wide.verdict in text


def test_the_same_seed_gives_the_same_bracket(target):
    q = FullRank(MEAN + 0.1, FACTOR)
    first, second, other = (certified(target, q, seed=seed) for seed in (3, 3, 4))
    assert (first.lower, first.upper) == (second.lower, second.upper)
    assert first.estimate != other.estimate


def test_a_member_that_is_not_full_rank_is_annealed_from_as_well(target):
    found = certified(target, MeanField(MEAN, np.log([2.0, 1.0, 0.5])), accuracy=0.1)
    assert abs(found.estimate - LOG_Z) < 4 * found.standard_error
    assert found.upper - found.lower <= 0.1


def test_stopping_does_not_favour_ends_that_cross(target):
    """To stop where ends happen to cross favours forward ends that are too high."""
    member, scores = MeanField(MEAN, np.log([2.0, 1.0, 0.5])), []
    for seed in range(20):
        forward = certified(target, member, accuracy=0.2, seed=seed).certificate.forward
        scores.append((forward.value - LOG_Z) / forward.standard_error)
    assert np.mean(scores) < 2.5 / np.sqrt(len(scores))
    assert 0.6 < np.std(scores) < 1.4


def test_pieces_of_a_pass_are_the_pass(path, monkeypatch):
    start = np.random.default_rng(3).normal(size=(512, P))
    plan = padded(np.full(9, 0.1), np.linspace(0.1, 0.9, 9), np.full(9, 0.7))
    monkeypatch.setattr(schedule, "_FIRST_LEAPS", 1)
    monkeypatch.setattr(schedule, "_PIECE", 0.0)
    with jax.enable_x64(True):
        cut = Runner(path, 5, Clock(np.inf))(start, plan)
        whole = anneal(path, start, plan, np.array([5, 1], np.uint32))
    np.testing.assert_array_equal(cut.places, whole.places)
    np.testing.assert_array_equal(cut.log_weight, whole.log_weight)
    np.testing.assert_array_equal(cut.accepted[:9], whole.accepted[:9])


class Ticking:
    """A clock that a look at moves on by one second."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("seconds", [1, 8, 40, 80, 150])
def test_whenever_time_ends_there_is_a_bracket_that_says_so(target, seconds, monkeypatch):
    monkeypatch.setattr(clock, "time", Ticking())
    q = FullRank(np.array([0.5, -1.0, 0.0]), np.diag([3.0, 2.0, 0.8]))
    found = certified(target, q, accuracy=1e-6, seconds=seconds)
    assert found.lower < LOG_Z < found.upper
    assert (found.upper == np.inf) == ("no upper end" in found.verdict) == (seconds < 10)
    assert "was over before" in found.verdict


def test_an_interrupt_keeps_what_is_known(target, monkeypatch):
    """After so many pieces the user stops it: by then chains have settled."""
    pieces = []

    def counted(*arguments):
        pieces.append(1)
        if len(pieces) > 30:
            raise KeyboardInterrupt
        return piece(*arguments)

    monkeypatch.setattr(schedule, "piece", counted)
    q = FullRank(np.array([0.5, -1.0, 0.0]), np.diag([3.0, 2.0, 0.8]))
    found = certified(target, q, accuracy=1e-6)
    assert found.lower < LOG_Z < found.upper
    assert "interrupted" in found.verdict
    assert len(pieces) == 31


def test_a_close_q_costs_no_annealing_from_it(target):
    """Importance weights and chains at the posterior do; nothing is between q and p."""
    found = certified(target, FullRank(MEAN, 1.1 * FACTOR), accuracy=0.5)
    assert found.certificate.temperatures == 1
    assert len(found.certificate.rounds) == 1
    assert found.lower < LOG_Z < found.upper


@pytest.mark.parametrize("weight", [0.7, 0.05])
def test_a_mode_that_q_misses_is_found_from_far_away(weight):
    found = certified(two_modes(weight, 4), FullRank(np.zeros(4), np.eye(4)))
    assert found.lower < 0.0 < found.upper
    assert found.upper - found.lower < 0.1
    assert abs(found.certificate.missed - (1 - weight)) < 0.02
    assert "q missed" in found.verdict


@pytest.mark.parametrize("bent", [funnel, banana])
def test_a_funnel_and_a_banana_are_contained_or_flagged(bent):
    sizes = {"v": unknowns.real(), "x": unknowns.real(2)}
    target = minorant.Target(bent, **(sizes if bent is funnel else {"x": unknowns.real(2)}))
    wide = FullRank(np.zeros(target.size), np.diag([2.0, 3.0, 3.0][: target.size]))
    found = certified(target, wide, accuracy=0.2)
    held = found.lower < 0.0 < found.upper
    assert held or found.verdict.startswith("Cannot be trusted")
    # Not by saying nothing.
    assert found.upper - found.lower < 0.3


def test_a_density_that_is_zero_at_all_draws_is_said_to_be():
    edge = minorant.Target(lambda x: jnp.where(x > 50.0, -x, -jnp.inf), x=unknowns.real())
    found = certified(edge, FullRank(np.zeros(1), np.eye(1)))
    assert found.verdict.startswith("Cannot be trusted")
    assert found.upper == np.inf


@pytest.mark.parametrize("name", ["accuracy", "seconds"])
def test_options_out_of_range_are_refused(target, name):
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        certified(target, FullRank(MEAN, FACTOR), **{name: 0.0})
    with pytest.raises(ValueError, match="seed must be a whole number"):
        certified(target, FullRank(MEAN, FACTOR), seed=-1)


@pytest.fixture(scope="module")
def path(target):
    """Coordinates in which the target is no standard normal, but not far from one."""
    return TargetPath(target, None, MEAN + 0.2, np.diag(WIDTH), np.ones(512))


@pytest.mark.parametrize("inverse", [1.0, 0.4])
def test_moves_leave_their_density_as_it_is(path, inverse):
    """Exact draws of q^(1-b) p^b keep their closed-form moments."""
    precision = np.linalg.inv(ROOT @ ROOT.T)
    covariance = np.linalg.inv(inverse * precision + (1 - inverse) * np.eye(P))
    mean = covariance @ (inverse * precision @ CENTRE)
    rng = np.random.default_rng(0)
    sums = []
    for turn in range(8):
        start = mean + rng.normal(size=(512, P)) @ np.linalg.cholesky(covariance).T
        schedule = padded(np.zeros(20), np.full(20, inverse), np.full(20, 1.2))
        with jax.enable_x64(True):
            passed = anneal(path, start, schedule, np.array([0, turn], np.uint32))
        assert not np.array_equal(passed.places, start)
        assert 0.2 < np.asarray(passed.accepted)[:20].mean() < 0.98
        sums.append(np.asarray(passed.places))
    draws = np.concatenate(sums)
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - mean) < 4.5 * error).all()
    squares = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    spread = squares.std(0) / np.sqrt(len(draws))
    assert (np.abs(squares.mean(0) - covariance) < 4.5 * spread).all()


def test_weights_are_unbiased_forwards_and_backwards(path):
    """A schedule of three crude steps: the means of w and 1/w are Z and 1/Z."""
    rng = np.random.default_rng(1)
    inverse, length = np.array([0.2, 0.6, 1.0]), np.full(3, 1.2)
    forward = padded(np.diff(inverse, prepend=0.0), inverse, length)
    back = padded(np.diff(inverse, prepend=0.0)[::-1], np.array([0.6, 0.2, 0.0]), length)
    ahead, behind = [], []
    for turn in range(16):
        with jax.enable_x64(True):
            seeds = np.array([1, turn], np.uint32)
            ahead.append(anneal(path, rng.normal(size=(512, P)), forward, seeds).log_weight)
            exact = CENTRE + rng.normal(size=(512, P)) @ ROOT.T
            behind.append(anneal(path, exact, back, seeds + 100).log_weight)
    weights = np.exp(np.concatenate(ahead) - LOG_Z)
    inverses = np.exp(LOG_Z - np.concatenate(behind))
    for ratio in (weights, inverses):
        assert abs(ratio.mean() - 1.0) < 5 * ratio.std() / np.sqrt(len(ratio))


def test_no_moves_leave_chains_where_they_are(path):
    start = np.random.default_rng(2).normal(size=(512, P))
    with jax.enable_x64(True):
        passed = anneal(path, start, resting(1.0, 0), np.array([0, 0], np.uint32))
    np.testing.assert_array_equal(passed.places, start)
    np.testing.assert_array_equal(passed.log_weight, 0.0)
