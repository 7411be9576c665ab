"""A stream: consistency, averaging, the bound's error, what counts, saving, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

import minorant
from minorant._config import precision
from minorant.components import Bernoulli, Categorical, Diagonal, Gaussian
from minorant.models import HiddenMarkov, Mixture
from minorant.solvers.starts import Starts

MEANS = np.array([[0.0, 0.0], [3.5, 0.5], [0.5, 4.0]])
BATCH, BATCHES = 256, 40
MODEL = Mixture(Gaussian(Diagonal()), n_components=3)
STARTS = Starts(n=2)


def batches(seed, n=BATCHES, size=BATCH):
    rng = np.random.default_rng(seed)
    return [
        MEANS[rng.choice(3, size, p=[0.5, 0.3, 0.2])] + rng.normal(size=(size, 2)) for _ in range(n)
    ]


def online(model=MODEL, **options):
    return minorant.Online(model, starts=STARTS, **options)


def learned(stream, parts, **sides):
    with precision(np.float64):
        for rows in parts:
            stream.partial_fit(rows, **sides)
    return stream


def means(model):
    """Means in the order of the truth's."""
    found = model.component.mean
    distance = np.linalg.norm(found[None] - MEANS[:, None], axis=2)
    return found[np.argmin(distance, axis=1)]


@pytest.fixture(scope="module")
def streams():
    """Streams of the same law, learned each with the same steps."""
    return [learned(online(), batches(seed)) for seed in range(8)]


def test_estimates_lie_about_the_truth_as_those_of_all_rows_do(streams):
    """Polyak's average is as efficient as maximum likelihood; early batches cost some of it."""
    with precision(np.float64):
        fit = minorant.fit(MODEL, np.concatenate(batches(0)), starts=STARTS, progress=False)
    found = np.stack([means(stream.model) for stream in streams])
    shares = np.array([0.5, 0.3, 0.2])[:, None] * BATCH * BATCHES
    errors = (found - MEANS) * np.sqrt(shares)  # in units of a known component's standard error
    assert np.sqrt(np.mean(errors**2)) < 2.5
    assert abs(np.mean(errors)) < 4 * 2.5 / np.sqrt(errors.size)
    assert streams[0].answer().log_evidence(np.concatenate(batches(0))).sum() < fit.bound


def test_the_average_is_better_than_the_last(streams):
    last = [minorant.Online.resumed(s.answer(), averaging=False).model for s in streams]
    error = np.mean([(means(model) - MEANS) ** 2 for model in last])
    assert np.mean([(means(s.model) - MEANS) ** 2 for s in streams]) < error


def test_the_bound_is_that_of_new_rows_within_its_error(streams):
    new = np.concatenate(batches(99, n=80))
    for stream in streams[:4]:
        bound = stream.bound
        score = stream.answer().log_evidence(new).mean()
        assert 0 < bound.standard_error < 0.1
        assert abs(bound.value - score) < 5 * bound.standard_error
        assert stream.answer().bound == pytest.approx(bound.value * stream.n_rows)
    assert streams[0].n_rows == BATCH * BATCHES


def test_steps_are_those_of_the_equation():
    """``s <- s + (t + 2)^-0.6 (s(batch) - s)``, followed here for the weights alone in NumPy."""
    parts = batches(5, n=4)
    stream = online(Mixture(Gaussian(Diagonal()), n_components=3), averaging=False)
    with precision(np.float64):
        weights = None
        for t, rows in enumerate(parts):
            probability = None if weights is None else stream.answer().posterior(rows).probability
            stream.partial_fit(rows)
            if weights is not None:
                share = np.asarray(probability).mean(1)
                weights = weights + (t + 1.0) ** -0.6 * (share - weights)
                np.testing.assert_allclose(stream.model.weights, weights, rtol=1e-9)
            weights = stream.model.weights


def test_saved_and_loaded_it_goes_on_to_the_last_bit(tmp_path, streams):
    minorant.save(streams[0].answer(), tmp_path / "stream")
    again = minorant.Online.resumed(minorant.load(tmp_path / "stream"))
    more = batches(7, n=2)
    one, other = learned(again, more), learned(minorant.Online.resumed(streams[0].answer()), more)
    np.testing.assert_array_equal(one.model.component.mean, other.model.component.mean)
    assert one.bound == other.bound
    assert one.n_rows == (BATCHES + 2) * BATCH


def test_the_same_stream_gives_the_same_model(streams):
    again = learned(online(), batches(0))
    np.testing.assert_array_equal(again.model.component.mean, streams[0].model.component.mean)


def test_after_a_fit_draws_stand_for_its_rows():
    with precision(np.float64):
        fit = minorant.fit(MODEL, np.concatenate(batches(1)), starts=STARTS, progress=False)
    stream = minorant.Online.resumed(fit)
    assert stream.n_rows == BATCH * BATCHES
    np.testing.assert_allclose(stream.model.component.mean, fit.model.component.mean, atol=0.05)
    learned(stream, batches(2, n=1))
    np.testing.assert_allclose(means(stream.model), MEANS, atol=0.2)


def test_rows_of_weight_zero_do_not_count_and_weights_are_copies():
    parts = batches(3, n=3)
    junk = [np.concatenate([rows, np.full((9, 2), 50.0)]) for rows in parts]
    weight = np.r_[np.full(BATCH, 2.0), np.zeros(9)]
    weighted = learned(online(), junk, weights=weight)
    copies = learned(online(), [np.concatenate([rows, rows]) for rows in parts])
    assert weighted.n_rows == copies.n_rows == 6 * BATCH
    np.testing.assert_allclose(means(weighted.model), means(copies.model), atol=1e-3)


def test_missing_cells_are_integrated_out_and_labels_are_kept_to():
    rng = np.random.default_rng(0)
    stream = online()
    for rows in batches(4, n=30):
        label = np.argmin(((rows[:, None] - MEANS) ** 2).sum(2), axis=1)
        known = np.where(rng.random(BATCH) < 0.3, label, -1)
        gaps = rng.random(rows.shape) < 0.2
        gaps[gaps.all(1)] = False
        learned(stream, [np.where(gaps, np.nan, rows)], labels=known)
    np.testing.assert_allclose(stream.model.component.mean, MEANS, atol=0.4)  # in labels' order


def test_float32_streams():
    stream = online()
    for rows in batches(6, n=10):
        stream.partial_fit(rows.astype(np.float32))
    assert stream.answer().dtype == "float32"
    np.testing.assert_allclose(means(stream.model), MEANS, atol=0.3)


def test_floors_follow_the_rows_seen():
    stream = learned(online(), batches(8, n=1))
    before = stream.model.component.floor
    learned(stream, [30.0 * rows for rows in batches(9, n=2)])
    assert np.all(stream.model.component.floor > 100 * before)


def test_what_is_fixed_stays():
    model = Mixture(Bernoulli(), np.array([0.25, 0.75]), n_components=2)
    stream = online(model, fixed=lambda m: m.weights)
    rng = np.random.default_rng(0)
    learned(stream, [(rng.random((100, 3)) < 0.4).astype(float) for _ in range(3)])
    np.testing.assert_array_equal(stream.model.weights, [0.25, 0.75])


# --- refusals --------------------------------------------------------------------------------


def test_models_without_statistics_that_add_up_are_refused():
    for model in (HiddenMarkov(Gaussian(), n_components=2), minorant.models.PPCA(1), "mixture"):
        with pytest.raises(TypeError, match="Online learns mixtures of independent rows"):
            minorant.Online(model)


def test_one_sentence_for_each_bad_batch():
    with pytest.raises(ValueError, match="exponent must be above"):
        online(exponent=0.3)
    with pytest.raises(ValueError, match="no model before the first batch"):
        online().answer()
    codes = np.resize([0.0, 1.0, 2.0], (30, 2))
    stream = learned(online(Mixture(Categorical(), n_components=1)), [codes])
    before = stream.model.component.probabilities
    with pytest.raises(ValueError, match=r"category codes below \[3, 3\].*row 4"):
        stream.partial_fit(np.where(np.arange(30)[:, None] == 4, 3.0, codes))
    with pytest.raises(ValueError, match="first batch has 2 columns; this one has 3"):
        stream.partial_fit(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="labels must be below the number of components, 1"):
        stream.partial_fit(codes, labels=np.arange(30))
    np.testing.assert_array_equal(stream.model.component.probabilities, before)
    assert stream.n_rows == 30
