"""What ``show`` prints: a saved fit, for reading."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from minorant.cli import flows
from minorant.cli.faces import Face, Kinds, face_of


def run_show(directory: str) -> None:
    """Print everything that a fit says about itself."""
    from minorant import load

    fit = load(directory)
    print("\n".join(lines(fit, face_of(directory, fit))))


def lines(fit: Any, face: Face) -> list[str]:
    """The page, paragraph by paragraph, an empty line between them."""
    paragraphs = [_head(fit, face), str(fit).splitlines()]
    if not flows.is_flow(fit):  # which has no latent, and no parameters to be read
        paragraphs += [_evidence(fit), _parameters(fit, face), _optima(fit)]
    return [line for paragraph in paragraphs if paragraph for line in (*paragraph, "")][:-1]


def _head(fit: Any, face: Face) -> list[str]:
    columns = face.columns
    kinds = columns.columns.components if isinstance(columns, Kinds) else ()
    named = map(" ".join, zip(fit.names, (f"({kind})" for kind in kinds), strict=True))
    shown = ", ".join(named if kinds else fit.names)
    parts = f" with {fit.model.n_components} components" if _is_discrete(fit) else ""
    return [f"{face.model}{parts} of the columns {shown}."]


def _evidence(fit: Any) -> list[str]:
    return [
        f"Evidence: {fit.bound:.6f} <= log p(X) <= {fit.bound:.6f} nats (gap 0): the posterior is "
        "exact, so the bound equals log p(X)."
        if fit.model.is_exact()
        else f"Evidence: log p(X) is about {fit.bound:.6f} nats, by quadrature: an estimate, not a "
        "bound.",
        f"BIC {fit.bic:.6f}, AIC {fit.aic:.6f}; smaller is better.",
    ]


def _parameters(fit: Any, face: Face) -> list[str]:
    """One line per parameter of every column, one column per component."""
    if not _is_discrete(fit):
        return _of_continuous(fit)
    lines = _of_states(fit.model)
    component = fit.model.component
    parts = getattr(component, "parts", (component,))
    places = getattr(component, "columns", (range(len(fit.names)),))
    for part, place in zip(parts, places, strict=True):
        lines |= _of_part(part, [fit.names[j] for j in place], _labels(face))
    cells = zip(*([name, *map(_cell, values)] for name, values in lines.items()), strict=True)
    header, *rows = map(list, cells)
    return _aligned({header[0]: header[1:]} | {row[0]: row[1:] for row in rows})


def _is_discrete(fit: Any) -> bool:
    from minorant.models import AbstractDiscreteModel

    return isinstance(fit.model, AbstractDiscreteModel)


def _of_states(model: Any) -> dict[str, np.ndarray]:
    """What is said of the components themselves: weights, or how a sequence moves among them."""
    found = {"component": np.arange(model.n_components)}
    if hasattr(model, "weights"):
        return found | {"weight": np.asarray(model.weights)}
    transition, where = model.transition, ""
    if hasattr(transition, "probabilities"):
        inputs = np.zeros((1, transition.n_inputs))
        transition, where = transition.probabilities(inputs)[0], " (inputs 0)"
    columns = enumerate(np.asarray(transition).T)
    moves = {f"moves on to {j}{where}": column for j, column in columns}
    return found | {"begins here": np.asarray(model.initial), **moves}


def _of_continuous(fit: Any) -> list[str]:
    """Every learned array: one line for each column of the table where it has one."""
    paragraphs: list[str] = []
    for name, value in learned(fit.model).items():
        rows = np.asarray(value, dtype=float)
        if rows.ndim == 0:
            paragraphs.append(f"{name} {_cell(float(rows))}")
            continue
        table = rows.reshape(len(rows), -1)
        heads = fit.names if len(table) == len(fit.names) else map(str, range(len(table)))
        cells = {"": list(heads)} | {str(j): column for j, column in enumerate(table.T)}
        paragraphs += ["", f"{name}:", *_aligned(cells)]
    return paragraphs[1:] if paragraphs[:1] == [""] else paragraphs


def learned(module: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The learned arrays of a model by name, those of its parts after the part's name."""
    found = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.metadata.get("static") or field.metadata.get("constraint", "") is None:
            continue
        items = enumerate(value) if isinstance(value, tuple) else ((None, value),)
        for place, item in items:
            name = prefix + field.name + ("" if place is None else f"[{place}]")
            if dataclasses.is_dataclass(item):
                found |= learned(item, f"{name}.")
            elif isinstance(item, np.ndarray):
                found[name] = item
    return found


def _of_part(part: Any, names: list[str], labels: list[str]) -> dict[str, np.ndarray]:
    """What was learned that is one number per component, or one per column or category of it."""
    found = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.metadata.get("constraint") is None or not isinstance(value, np.ndarray):
            continue
        named = names if value.shape[1:] == (len(names),) else labels
        if value.ndim == 1:
            found[f"{field.name} {', '.join(names)}"] = value
        elif value.shape[1:] == (len(named),):
            pairs = zip(named, value.T, strict=True)
            found |= {f"{field.name} {name}": cells for name, cells in pairs}
    return found


def _labels(face: Face) -> list[str]:
    """The categories of the categorical columns, in the order of their codes."""
    items = face.columns.columns.items if isinstance(face.columns, Kinds) else ()
    columns = [column for column in items if column.component == "categorical"]
    return [f"{column.name}={label}" for column in columns for label in column.categories or ()]


def _optima(fit: Any) -> list[str]:
    if len(fit.optima) < 2:
        return []
    rows = {
        "optimum": range(len(fit.optima)),
        "log p(X)": [one.objective for one in fit.optima],
        "distance from the best": [one.distance for one in fit.optima],
        "starts": [", ".join(map(str, one.starts)) for one in fit.optima],
    }
    return ["Distinct optima that the starts led to, best first:", *_aligned(rows)]


def _aligned(columns: dict[str, Any]) -> list[str]:
    """Columns of cells as lines of text, right-aligned."""
    shown = [[name, *map(_cell, cells)] for name, cells in columns.items()]
    widths = [max(map(len, column)) for column in shown]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in zip(*shown, strict=True)
    ]


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
