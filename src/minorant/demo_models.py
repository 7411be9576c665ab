"""The demo's second half: a sequence of states, a level that moves, a trait, and factors.

Earthquakes a year (hidden Markov), the flow of the Nile (state space), a law school test (latent
trait) and the measures of penguins (factor analysis): fitted, judged and drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import minorant
from minorant import datasets, plots
from minorant.components import Poisson
from minorant.estimators import FactorAnalysis, LatentTrait, StateSpace

_MEASURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")


def earthquakes(out: Path) -> list[str]:
    """Three states behind the yearly number of major earthquakes, and the next ten years."""
    table = datasets.load("earthquakes")
    counts = _frame({"earthquakes": table["count"]})
    fit = minorant.fit(
        minorant.models.HiddenMarkov(Poisson(), n_components=3), counts, progress=False
    )
    axes = plots.states(fit, counts, steps=10, times=np.asarray(table["year"]))
    _save(axes, out / "earthquakes_states.png")
    rates = np.sort(np.asarray(fit.model.component.rate)[:, 0])
    errors = np.asarray(fit.standard_errors(counts).model.component.rate)[:, 0]
    order = np.argsort(np.asarray(fit.model.component.rate)[:, 0])
    pairs = zip(rates, errors[order], strict=True)
    told = ", ".join(f"{rate:.2f} (se {error:.2f})" for rate, error in pairs)
    return [
        *heading("Major earthquakes a year, 1900 to 2006: three hidden states"),
        fit.outcome.value,
        f"log p(X) = {fit.bound:.4f} nats; earthquakes a year in the three states: {told}.",
        "Picture: earthquakes_states.png.",
    ]


def nile(out: Path) -> list[str]:
    """A level that moves as a random walk, and ten years ahead."""
    flow = _frame({"flow, 10^8 cubic metres": datasets.load("nile")["volume"]})
    level = StateSpace(
        transition=[[1.0]],
        transition_offset=[0.0],
        observation=[[1.0]],
        observation_offset=[0.0],
        initial_mean=[0.0],
        initial_covariance=[[1e7]],
    ).fit(flow)
    _save(plots.series(level, flow, n_steps=10), out / "nile_level.png")
    noise = float(np.ravel(level.observation_covariance_)[0])
    moves = float(np.ravel(level.transition_covariance_)[0])
    return [
        *heading("The Nile at Aswan, 1871 to 1970: a level that moves"),
        level.fit_.outcome.value,
        f"Variance of a year about the level {noise:.0f}, of the level's yearly move {moves:.0f}.",
        "Picture: nile_level.png.",
    ]


def law_school(out: Path) -> list[str]:
    """Five items of a test, 1000 persons: how hard each item is, and how much it tells."""
    table = datasets.load("lsat6")
    names = [name for name in table if name != "persons"]
    answers = _frame({name: table[name] for name in names})
    trait = LatentTrait().fit(answers, sample_weight=np.asarray(table["persons"], dtype=float))
    _save(plots.item_information(trait), out / "lsat_information.png")
    _save(plots.item_curves(trait, 2), out / "lsat_item_3.png")
    items = trait.items_
    numbers = zip(names, items.slopes[:, 0], items.difficulties[:, 0], strict=True)
    lines = [f"  {name:<8}{slope:>10.3f}{hard:>12.3f}" for name, slope, hard in numbers]
    return [
        *heading("Law School Admission Test, section 6: five items, 1000 persons"),
        trait.fit_.outcome.value,
        f"log p(X) = {trait.fit_.bound:.3f} nats.",
        f"  {'item':<8}{'slope':>10}{'difficulty':>12}",
        *lines,
        "Pictures: lsat_information.png, lsat_item_3.png.",
    ]


def penguins(out: Path) -> list[str]:
    """One factor behind four measures; two birds without measures are left out."""
    table = datasets.load("penguins")
    values = np.stack([np.asarray(table[name], dtype=float) for name in _MEASURES], axis=1)
    values = values[~np.isnan(values).all(axis=1)]
    frame = _frame(dict(zip(_MEASURES, values.T, strict=True)))
    factors = FactorAnalysis(n_components=1).fit(frame)
    _save(plots.loadings(factors), out / "penguins_loadings.png")
    shares = ", ".join(
        f"{name} {share:.2f}" for name, share in zip(_MEASURES, factors.communalities_, strict=True)
    )
    return [
        *heading("Penguins: one factor behind four measures, 342 birds"),
        factors.fit_.outcome.value,
        f"log p(X) = {factors.fit_.bound:.3f} nats; share of each measure that the factor tells: "
        f"{shares}.",
        *factors.irregular_,
        "Picture: penguins_loadings.png.",
    ]


def heading(title: str) -> list[str]:
    """A title, underlined, after an empty line."""
    return ["", title, "-" * len(title)]


def _frame(columns: dict[str, Any]) -> Any:
    """Columns of numbers with their names."""
    import pyarrow as pa

    return pa.table({name: np.asarray(cells, dtype=float) for name, cells in columns.items()})


def _save(axes: Any, path: Path) -> None:
    np.ravel(np.asarray(axes, dtype=object))[0].figure.savefig(path)
