"""The demo: models fitted to real data, judged, drawn, and told in a page of text.

Each part has its own pictures in the output directory. Mixtures: the Old Faithful geyser (the
bound, the evidence, and EM as an animation), handwritten digits (components that nobody labelled),
and air quality with missing cells (imputation, checked on cells hidden on purpose). Beyond
mixtures, in ``demo_models.py``: sequences of states, a level that moves, a trait, and factors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

import minorant
from minorant import _config, datasets, demo_models, plots
from minorant.components import Full, Gaussian
from minorant.evidence import impute
from minorant.plots._style import INK, LABEL_SIZE, TICK_SIZE, dress, new_figure, one

Reporter = Callable[[str], None]
_AXES, _DIGITS = 12, 10
_AIR = ("ozone", "solar_radiation", "wind", "temperature")


def run(out_dir: Any, reporter: Reporter | None = None) -> list[str]:
    """Fit, judge and draw; write pictures and ``summary.txt``.

    Args:
        out_dir: a directory; made if it is not there. Files of an earlier demo are replaced.
        reporter: called with each line of the summary as soon as it is known.

    Returns:
        The lines of the summary.

    Raises:
        OSError: when the directory cannot be written to.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with _config.precision(np.dtype(np.float64)):
        for part in PARTS:
            for line in part(out):
                lines.append(line)
                if reporter is not None:
                    reporter(line)
    (out / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def save(axes: Any, path: Path) -> None:
    """Write the figure of some axes as a PNG."""
    first = np.ravel(np.asarray(axes, dtype=object))[0]
    first.figure.savefig(path)


# --- Old Faithful --------------------------------------------------------------------------------


def old_faithful(out: Path) -> list[str]:
    """Two components over 272 eruptions: fit, evidence, pictures, animation."""
    table = _arrow(datasets.load("old_faithful"))
    fit = minorant.fit(minorant.Mixture(Gaussian(Full()), n_components=2), table, progress=False)
    save(plots.components(fit, table), out / "old_faithful_components.png")
    save(plots.climb(fit), out / "old_faithful_climb.png")
    save(plots.responsibilities(fit, table), out / "old_faithful_responsibilities.png")
    path = plots.em_animation(
        faithful_start(),
        table,
        out / "old_faithful_em.gif",
        frame_directory=out / "old_faithful_em_frames",
        tolerance=1e-4,
    )
    return [
        *demo_models.heading(
            "Old Faithful: length of eruptions and the wait to the next, 272 rows"
        ),
        *_verdict(fit),
        *_component_table(fit),
        *evidence_lines(fit, table),
        f"The animation: {len(path.iterates) - 1} plain EM steps from two round guesses, from "
        f"{path.log_evidence[0]:.4f} to {path.log_evidence[-1]:.4f} nats per row.",
        "Pictures: old_faithful_*.png, old_faithful_em.gif and its frames.",
    ]


def faithful_start() -> minorant.Mixture:
    """A poor but natural start: two round components, one above the other."""
    values = np.stack(list(datasets.load("old_faithful").values()), axis=1)
    mean, deviation = values.mean(0), values.std(0)
    means = mean + deviation * np.array([[-0.1, 0.8], [0.1, -0.8]])
    covariances: Any = np.stack([np.diag(deviation**2)] * 2)
    component = Gaussian(Full(), mean=_any(means), covariance=covariances)
    return minorant.Mixture(component, weights=_any(np.full(2, 0.5)), n_components=2)


def evidence_lines(fit: minorant.Fit, table: Any) -> list[str]:
    """The equality for the exact posterior, and the gap that two worse q leave."""
    eruptions = np.asarray(table["eruptions"])
    long = int(np.argmax(np.asarray(fit.model.component.mean)[:, 0]))
    hard = np.zeros((len(eruptions), 2))
    hard[np.arange(len(eruptions)), np.where(eruptions > 3.0, long, 1 - long)] = 1.0
    choices = {
        "exact posterior": None,
        "certain: above 3 minutes": hard,
        "uniform": np.full_like(hard, 0.5),
    }
    lines = ["", "log p(x) = L(q) + KL(q || p(z | x)), in nats:"]
    lines.append(f"  {'q':<26}{'L(q)':>14}{'KL':>14}{'sum':>14}")
    for name, q in choices.items():
        found = fit.evidence(table, q)
        total = found.lower + found.gap
        lines.append(f"  {name:<26}{found.lower:>14.6f}{found.gap:>14.6f}{total:>14.6f}")
    return [*lines, ""]


# --- digits --------------------------------------------------------------------------------------


def digits(out: Path) -> list[str]:
    """Ten components over handwritten digits in their first principal axes; labels held back."""
    from sklearn.datasets import load_digits

    pixels, truth = map(np.asarray, load_digits(return_X_y=True))
    centre, axes, scores = principal_axes(pixels, _AXES)
    fit = minorant.fit(
        minorant.Mixture(Gaussian(Full()), n_components=_DIGITS), scores, progress=False
    )
    found = minorant.evidence.labels(fit, scores)
    counts = confusion(truth, found)
    pure = counts.max(0).sum() / counts.sum()
    images = centre + np.asarray(fit.model.component.mean) @ axes
    save(component_images(images, counts), out / "digits_components.png")
    save(confusion_picture(counts), out / "digits_confusion.png")
    save(plots.climb(fit), out / "digits_climb.png")
    save(plots.responsibilities(fit, scores), out / "digits_responsibilities.png")
    return [
        *demo_models.heading(
            f"Handwritten digits: 1797 images of 8 x 8, their first {_AXES} principal axes"
        ),
        *_verdict(fit),
        f"No label was used. In {pure:.1%} of the images the true digit is the commonest one of "
        "their component.",
        "Pictures: digits_*.png.",
    ]


def principal_axes(
    values: Float[np.ndarray, "n d"], m: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "m d"], Float[np.ndarray, "n m"]]:
    """Mean, the first m principal axes, and the rows' coordinates on them."""
    centre = values.mean(0)
    _, _, axes = np.linalg.svd(values - centre, full_matrices=False)
    return centre, axes[:m], (values - centre) @ axes[:m].T


def confusion(truth: Int[np.ndarray, " n"], found: Int[np.ndarray, " n"]) -> Int[np.ndarray, "c k"]:
    """Counts of true classes (rows) in components (columns)."""
    counts = np.zeros((truth.max() + 1, _DIGITS), dtype=int)
    np.add.at(counts, (truth, found), 1)
    return counts


def component_images(images: Float[np.ndarray, "k 64"], counts: Int[np.ndarray, "c k"]) -> Any:
    """The components' means as images, in the order of the digit they mostly hold."""
    figure = new_figure(7.2, 3.5)
    axes = figure.subplots(2, 5)
    order = np.argsort(counts.argmax(0), kind="stable")
    for ax, j in zip(axes.ravel(), order, strict=True):
        ax.imshow(images[j].reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        digit, total = counts[:, j].argmax(), counts[:, j].sum()
        share = counts[:, j].max() / max(total, 1)
        ax.set_title(
            f"{j}: {total} images,\n{share:.0%} are a {digit}",
            fontsize=TICK_SIZE, color=INK,
        )  # fmt: skip
        ax.set_axis_off()
    figure.suptitle("The components' means, as images", fontsize=LABEL_SIZE + 2, color=INK)
    return axes


def confusion_picture(counts: Int[np.ndarray, "c k"], ax: Any = None) -> Any:
    """True digit against component, components sorted by the digit they mostly hold."""
    ax = one(ax, 5.6, 4.8)
    order = np.argsort(counts.argmax(0), kind="stable")
    shown = counts[:, order]
    ax.imshow(shown, cmap="Blues", vmin=0)
    for i, j in np.argwhere(shown > 0):
        ink = "white" if shown[i, j] > 0.55 * shown.max() else INK
        ax.text(j, i, str(shown[i, j]), ha="center", va="center", fontsize=TICK_SIZE, color=ink)
    dress(ax, "True digits and the components that hold them", "component", "true digit")
    ax.grid(False)
    ax.set_xticks(range(len(order)), [str(j) for j in order])
    ax.set_yticks(range(len(counts)))
    return ax


# --- air quality ---------------------------------------------------------------------------------


def air_quality(out: Path) -> list[str]:
    """Missing cells integrated out and filled, and the filling checked on hidden cells."""
    columns = datasets.load("airquality")
    values = np.stack([columns[name] for name in _AIR], axis=1)
    fit = _air_fit(values)
    filled = impute(fit, _air_table(values))
    save(imputation_picture(values, filled), out / "airquality_imputed.png")
    save(plots.components(fit, _air_table(values)), out / "airquality_components.png")
    n_missing, d = int(np.isnan(values).sum()), values.shape[1]
    mixture, means, n_hidden = hidden_error(values)
    return [
        *demo_models.heading(
            f"Air quality: {len(values)} days, {d} columns, {n_missing} cells missing"
        ),
        *_verdict(fit),
        f"{n_hidden} observed ozone cells hidden, the model refitted, and the cells filled: off by "
        f"{mixture:.1f} parts per billion (root mean square); the column's mean is off by "
        f"{means:.1f}.",
        "Pictures: airquality_*.png.",
    ]


def hidden_error(
    values: Float[np.ndarray, "n d"], share: float = 0.2, seed: int = 0
) -> tuple[float, float, int]:
    """Root mean square errors on hidden ozone cells: the mixture's, the mean's; and how many."""
    observed = np.flatnonzero(~np.isnan(values[:, 0]))
    rng = np.random.default_rng(seed)
    hidden = rng.choice(observed, round(share * len(observed)), replace=False)
    kept = values.copy()
    kept[hidden, 0] = np.nan
    filled = impute(_air_fit(kept), _air_table(kept))[hidden, 0]
    truth, mean = values[hidden, 0], np.nanmean(kept[:, 0])
    return _root_mean_square(filled - truth), _root_mean_square(mean - truth), len(hidden)


def imputation_picture(
    values: Float[np.ndarray, "n d"], filled: Float[np.ndarray, "n d"], ax: Any = None
) -> Any:
    """Ozone against temperature: observed, and imputed where ozone is missing."""
    ax = one(ax)
    missing = np.isnan(values[:, 0])
    ax.plot(filled[~missing, 3], filled[~missing, 0], "o", color="#8A8A8A", ms=4, label="observed")
    ax.plot(
        filled[missing, 3], filled[missing, 0], "D", color="#D55E00", ms=5, mec="white",
        label="imputed: the mean given the other columns",
    )  # fmt: skip
    title = f"Ozone was not measured on {missing.sum()} of {len(values)} days"
    dress(ax, title, "temperature, °F", "ozone, parts per billion")
    ax.legend(fontsize=TICK_SIZE, frameon=False, loc="upper left")
    return ax


def _air_table(values: Float[np.ndarray, "n d"]) -> Any:
    return _arrow(dict(zip(_AIR, values.T, strict=True)))


def _air_fit(values: Float[np.ndarray, "n d"]) -> minorant.Fit:
    model = minorant.Mixture(Gaussian(Full()), n_components=2)
    return minorant.fit(model, _air_table(values), progress=False)


def _root_mean_square(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference**2)))


# --- lines ---------------------------------------------------------------------------------------


def _verdict(fit: minorant.Fit) -> list[str]:
    per_row = fit.bound / fit.n_rows
    return [
        fit.outcome.value,
        f"log p(X) = {fit.bound:.6f} nats ({per_row:.6f} per row), {fit.n_parameters} parameters, "
        f"{fit.acceleration.steps} EM steps, BIC {fit.bic:.3f}.",
    ]


def _component_table(fit: minorant.Fit) -> list[str]:
    means, weights = np.asarray(fit.model.component.mean), np.asarray(fit.model.weights)
    lines = ["", f"  {'component':<12}{'weight':>8}" + "".join(f"{n:>14}" for n in fit.names)]
    for j, (weight, mean) in enumerate(zip(weights, means, strict=True)):
        lines.append(f"  {j:<12}{weight:>8.4f}" + "".join(f"{value:>14.4f}" for value in mean))
    return lines


def _arrow(columns: dict[str, np.ndarray]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.array(cells) for name, cells in columns.items()})


def _any(array: np.ndarray) -> Any:
    return array


PARTS = (
    old_faithful,
    digits,
    air_quality,
    demo_models.earthquakes,
    demo_models.nile,
    demo_models.law_school,
    demo_models.penguins,
)
