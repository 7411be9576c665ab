"""Pictures: the arrays behind them against slow twins, what the axes hold, what is written."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from scipy.special import logsumexp, xlogy
from scipy.stats import multivariate_normal, norm, poisson

import minorant
from minorant import plots
from minorant.components import Bernoulli, Full, Gaussian, Poisson
from minorant.plots._climb import per_row, refused_steps
from minorant.plots._components import chosen_columns, matrices
from minorant.plots._frames import frames
from minorant.plots._marginals import is_discrete, marginal
from minorant.plots._responsibilities import doubts, sorted_rows
from minorant.plots._style import mixed, palette

K = 2


def _rows(n: int = 60, missing: bool = False) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = np.r_[rng.normal(0, 1, (n // 2, 2)), rng.normal((3, 20), (1, 8), (n - n // 2, 2))]
    if missing:
        values[::7, 0] = np.nan
    return values


def _start(values: np.ndarray) -> minorant.Mixture:
    spread = np.diag(np.nanvar(values, axis=0))
    mean = np.nanmean(values, axis=0) + np.sqrt(np.diag(spread)) * [[0.1, -0.9], [-0.1, 0.9]]
    component = Gaussian(Full(), mean=mean, covariance=np.stack([spread] * K))
    return minorant.Mixture(component, weights=np.array([0.4, 0.6]), n_components=K)


@pytest.fixture(scope="module")
def path():
    values = _rows()
    return plots.em_path(_start(values), values, n_steps=6, points_per_step=8)


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        return minorant.fit(minorant.Mixture(Gaussian(), n_components=K), _rows())


# --- the path ------------------------------------------------------------------------------------


def test_bounds_lie_below_the_curve_and_touch_it_at_their_own_iterate(path):
    assert path.gaps.min() > -1e-12
    own = path.gaps[np.arange(len(path.iterates)), path.iterates]
    assert np.abs(own).max() < 1e-12
    elsewhere = path.gaps[0, path.iterates[1:]]
    assert elsewhere.min() > 1e-6  # not all the same curve


def test_each_m_step_ends_at_the_top_of_its_bound(path):
    for t in range(len(path.iterates) - 1):
        top = path.bounds[t, path.iterates[t + 1]]
        assert np.all(path.bounds[t] <= top + 1e-12)


def test_log_evidence_climbs_from_iterate_to_iterate(path):
    assert np.diff(path.log_evidence[path.iterates]).min() > 0


def _joint(path, weights, place):
    """log w_k + log p(x | k), by scipy, in the data's units."""
    return np.stack(
        [
            np.log(w) + multivariate_normal(m, c).logpdf(path.values)
            for w, m, c in zip(weights, path.means[place], path.covariances[place], strict=True)
        ]
    )


def test_curve_and_bounds_agree_with_scipy_at_the_iterates(path):
    weights = np.array([0.4, 0.6])
    for t, place in enumerate(path.iterates):
        joint = _joint(path, weights, place)
        assert np.isclose(path.log_evidence[place], logsumexp(joint, axis=0).mean(), rtol=1e-10)
        for s, q in enumerate(path.responsibilities):
            bound = (q * joint - xlogy(q, q)).sum(0).mean()
            assert np.isclose(path.bounds[s, place], bound, rtol=1e-10)
        weights = path.responsibilities[t].mean(1)  # the M-step of the weights


def test_path_is_plain_em_as_fit_climbs_it(path):
    from minorant.solvers.accelerate import Plain

    with jax.enable_x64(True):
        solver = minorant.EM(acceleration=Plain(), tolerance=0.0)
        fit = minorant.fit(_start(path.values), path.values, solver=solver, max_steps=7)
    assert np.allclose(fit.trace.bound / 60, path.log_evidence[path.iterates], rtol=1e-11)


def test_a_q_between_two_posteriors_has_its_own_true_bound(path):
    q, bound = path.between(2, 0.3)
    gap = path.log_evidence - bound
    assert np.allclose(q.sum(0), 1.0)
    assert gap.min() > -1e-12
    for share, t in ((0.0, 1), (1.0, 2)):
        assert np.allclose(path.between(2, share)[1], path.bounds[t], atol=1e-13)
    # entropy is concave: the bound lies above the chord of the two bounds, by more than rounding
    chord = 0.7 * path.bounds[1] + 0.3 * path.bounds[2]
    assert np.all(bound >= chord)
    assert (bound - chord).max() > 1e-9


def test_missing_cells_and_weights_keep_the_inequality():
    values = _rows(missing=True)
    weights = np.arange(60) % 3.0
    path = plots.em_path(_start(values), values, weights=weights, n_steps=3, points_per_step=4)
    own = path.gaps[np.arange(len(path.iterates)), path.iterates]
    assert path.gaps.min() > -1e-12
    assert np.abs(own).max() < 1e-12
    copies = plots.em_path(
        _start(values), np.repeat(values, weights.astype(int), axis=0), n_steps=3, points_per_step=4
    )
    assert copies.log_evidence[0] == pytest.approx(path.log_evidence[0], rel=1e-6)


def test_path_starts_from_a_random_partition_and_ends_early_by_tolerance():
    values = _rows()
    model = minorant.Mixture(Gaussian(), n_components=K)
    whole = plots.em_path(model, values, n_steps=30, points_per_step=2)
    short = plots.em_path(model, values, n_steps=30, points_per_step=2, tolerance=1e-3)
    gains = np.diff(whole.log_evidence[whole.iterates])
    assert len(short.iterates) == np.flatnonzero(gains < 1e-3)[0] + 2


def test_path_refuses_options_that_leave_no_path():
    with pytest.raises(ValueError, match="n_steps"):
        plots.em_path(_start(_rows()), _rows(), n_steps=0)


# --- the animation -------------------------------------------------------------------------------


def test_frames_open_the_gap_along_m_steps_and_close_it_along_e_steps(path):
    shown = list(frames(path))
    gap = np.array([path.log_evidence[f.place] - f.bound[f.place] for f in shown])
    for before, after, frame in zip(gap, gap[1:], shown[1:], strict=False):
        assert (after > before) if frame.phase == "M" else (after <= before + 1e-12)
    assert {f.phase for f in shown} == {"start", "E", "M", "end"}
    assert shown[-1].place == len(path.step) - 1


def test_animation_writes_a_gif_and_key_frames(tmp_path):
    from PIL import Image

    values = _rows()
    path = plots.em_animation(
        _start(values), values, tmp_path / "em.gif", frame_directory=tmp_path / "frames", n_steps=2
    )
    shown = list(frames(path))
    with Image.open(tmp_path / "em.gif") as gif:
        assert gif.n_frames <= len(shown)  # equal neighbours are stored once
        assert gif.n_frames > len(path.iterates)
    assert len(list((tmp_path / "frames").glob("*.png"))) == sum(f.is_key for f in shown)
    assert (tmp_path / "em.gif").stat().st_size < 1_000_000


def test_animation_refuses_a_single_column(tmp_path):
    values = _rows()[:, :1]
    with pytest.raises(ValueError, match="two columns"):
        plots.em_animation(
            minorant.Mixture(Gaussian(), n_components=K), values, tmp_path / "em.gif", n_steps=1
        )
    assert not list(tmp_path.iterdir())


# --- the climb -----------------------------------------------------------------------------------


def test_climb_draws_the_trace_per_row_and_the_outcome(fit):
    ax = plots.climb(fit)
    line = ax.lines[0].get_ydata()
    assert np.array_equal(line, np.asarray(fit.trace.bound) / 60)
    assert line[-1] == pytest.approx(fit.bound / 60)
    assert ax.get_ylabel() == "bound, nats per row"
    assert str(fit.acceleration.steps) in ax.get_title(loc="left")


def test_refused_steps_are_marked_only_when_their_number_is_right(fit):
    trace = np.array([-3.0, -2.0, -2.0, -1.0])
    made = fit._replace(trace=fit.trace._replace(bound=trace))
    for refused, marked in ((1, [2]), (2, [])):
        made = made._replace(acceleration=fit.acceleration._replace(refused=refused))
        assert refused_steps(made).tolist() == marked
    assert per_row(made)[1] == pytest.approx(-2.0 / 60)


# --- components and responsibilities -------------------------------------------------------------


def test_ellipses_lie_at_one_and_two_standard_deviations(fit):
    ax = plots.components(fit, _rows())
    model = fit.model.component
    lines = [line.get_xydata() for line in ax.lines]
    for k in range(K):
        inverse = np.linalg.inv(model.covariance[k])
        for deviations, points in zip((1.0, 2.0), lines[2 * k : 2 * k + 2], strict=True):
            away = points - model.mean[k]
            distance = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
            assert np.allclose(distance, deviations, rtol=1e-9)


def test_row_colours_mix_the_components_colours(fit):
    ax = plots.components(fit, _rows())
    q = np.exp(np.asarray(fit.posterior(_rows()).log_probability))
    drawn = ax.collections[0].get_facecolors()[:, :3]
    assert np.allclose(drawn, q.T @ palette(K), atol=1e-9)
    assert np.allclose(mixed(np.eye(3)), palette(3))


def test_palette_colours_differ_for_up_to_ten_components():
    for k in range(1, 11):
        assert len(np.unique(palette(k), axis=0)) == k


def test_marginal_densities_are_those_of_scipy(fit):
    found = marginal(fit, _rows(), 1)
    component = fit.model.component
    for k in range(K):
        scale = np.sqrt(component.covariance[k, 1, 1])
        density = fit.model.weights[k] * norm(component.mean[k, 1], scale).pdf(found.grid)
        assert np.allclose(found.density[k], density, rtol=1e-8, atol=1e-14)


def test_counts_are_drawn_as_bars_of_their_probabilities():
    counts = np.random.default_rng(0).poisson(np.r_[np.full(30, 1.0), np.full(30, 9.0)])[:, None]
    with jax.enable_x64(True):
        fit = minorant.fit(minorant.Mixture(Poisson(), n_components=K), counts.astype(float))
    found = marginal(fit, counts.astype(float), 0)
    assert found.is_discrete
    assert np.array_equal(found.grid, np.arange(counts.min(), counts.max() + 1))
    rates = np.asarray(fit.model.component.rate)[:, 0]
    for k in range(K):
        mass = fit.model.weights[k] * poisson(rates[k]).pmf(found.grid)
        assert np.allclose(found.density[k], mass, rtol=1e-6)
    assert plots.components(fit, counts.astype(float)).get_ylabel() == "probability"


def test_whole_numbers_under_a_gaussian_are_not_discrete(fit):
    assert not is_discrete(fit, np.round(_rows()), 1)


def test_components_without_covariances_get_a_panel_for_each_column():
    answers = np.random.default_rng(1).integers(0, 2, (40, 3)).astype(float)
    with jax.enable_x64(True):
        fit = minorant.fit(minorant.Mixture(Bernoulli(), n_components=K), answers)
    axes = plots.components(fit, answers)
    assert [ax.get_xlabel() for ax in axes.ravel()] == list(fit.names)


def test_pairs_plot_shows_each_pair_once_and_takes_a_given_place():
    from matplotlib.figure import Figure

    values = np.c_[_rows(), _rows()[:, 0] * 0.5 + np.random.default_rng(2).normal(size=60)]
    with jax.enable_x64(True):
        fit = minorant.fit(minorant.Mixture(Gaussian(), n_components=K), values)
    figure = Figure()
    axes = plots.components(fit, values, ax=figure.add_subplot(1, 2, 1))
    assert axes.shape == (3, 3)
    assert all(ax.figure is figure for ax in axes.ravel())
    visible = np.array([[ax.get_visible() for ax in line] for line in axes])
    assert np.array_equal(visible, np.tri(3, dtype=bool))
    assert plots.components(fit, values, columns=[2, 0]).get_xlabel() == "column 2"


def test_columns_are_chosen_by_name_or_number_and_unknown_ones_named():
    names = ("a", "b", "c")
    assert chosen_columns(names, ["c", 0]) == [2, 0]
    with pytest.raises(ValueError, match="'z'"):
        chosen_columns(names, ["z"])
    with pytest.raises(ValueError, match="at most 6"):
        chosen_columns(tuple("abcdefgh"), range(8))


@pytest.mark.parametrize("structure", ["Full", "Tied", "Diagonal", "Spherical"])
def test_matrices_agree_with_the_structure_itself(structure, float64):
    chosen = getattr(minorant.components, structure)()
    stored = {"Full": (3, 3, 3), "Tied": (3, 3), "Diagonal": (3, 3), "Spherical": (3,)}[structure]
    values = np.eye(3) + 0.1 if structure == "Tied" else np.random.default_rng(0).random(stored)
    component = Gaussian(chosen, mean=np.zeros((3, 3)), covariance=values)
    expected = np.broadcast_to(np.asarray(chosen.matrices(values, 3, 3)), (3, 3, 3))
    assert np.allclose(matrices(component), expected)


def test_responsibilities_stack_to_one_and_sort_by_component_and_certainty(fit):
    q = np.exp(np.asarray(fit.posterior(_rows()).log_probability))
    order = sorted_rows(q)
    owner, largest = q.argmax(0)[order], q.max(0)[order]
    assert np.all(np.diff(owner) >= 0)
    for k in range(K):
        assert np.all(np.diff(largest[owner == k]) <= 0)
    assert np.allclose(doubts(q), 1 - q.max(0), atol=1e-12)
    above, below = plots.responsibilities(fit, _rows())
    assert f"{int((q.max(0) < 0.9).sum())} of 60" in above.get_title(loc="left")
    assert below.get_xscale() == "log"


def test_no_picture_touches_pyplot(fit):
    plots.climb(fit)
    plots.components(fit, _rows())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
