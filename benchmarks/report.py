"""Sections of results: kept in ``results/results.json``, shown in ``results/README.md``.

A section that is measured alone replaces its own part and leaves the others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure

RESULTS = Path(__file__).parent / "results"
RAW = Path(__file__).parent / "raw"  # --quick: sizes that prove nothing, kept apart
ORDER = (
    "em_step",
    "bare_products",
    "time_to_optimum",
    "memory",
    "whole_process",
    "hmm",
    "latent_trait",
    "factor_analysis",
    "kalman",
    "starts",
    "posteriors",
    "families",
    "gradient_step",
    "bound_time",
    "published",
    "certificate",
    "evaluations",
    "digits",
    "encoder_step",
    "large_data",
    "large_encoder",
    "many_components",
    "acceleration",
    "dask_workers",
)


@dataclass
class Section:
    """One table, what it says, and the targets it answers.

    ``targets`` are (work, target, reached) with ``met``; ``samples`` every single measurement.
    """

    name: str
    title: str
    note: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def target(self, work: str, target: str, reached: str, met: bool, others: float = 0.0) -> None:
        """Note how a target of the project stands; ``others``: cores others used meanwhile."""
        found = {"work": work, "target": target, "reached": reached, "met": met}
        self.targets.append(found | {"others": others})


def save(section: Section, quick: bool) -> None:
    """Write the section beside those measured before, and print it."""
    folder = RAW if quick else RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / "results.json"
    known = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    known["sections"][section.name] = asdict(section) | {"machine": measure.machine()}
    path.write_text(json.dumps(known, indent=1) + "\n")
    (folder / "README.md").write_text(page(known["sections"]))
    print("\n".join(_section(asdict(section))), flush=True)


def page(sections: dict[str, Any]) -> str:
    """The readable page."""
    found = [sections[name] for name in ORDER if name in sections]
    lines = ["# Results", "", *_machines(found), "", "## Targets", ""]
    targets = [
        target | {"met": _verdict(target)} for section in found for target in section["targets"]
    ]
    lines += [*_table(targets), ""]
    for section in found:
        lines += [*_section(section), ""]
    return "\n".join(lines)


def _verdict(target: dict[str, Any]) -> str:
    """Yes, no, or that a busy machine says nothing."""
    if target["others"] > measure.QUIET:
        return "unsettled: the machine was busy"
    return "yes" if target["met"] else "**no**"


def _machines(sections: list[dict[str, Any]]) -> list[str]:
    """One sentence for each machine and set of versions that sections were measured on."""
    said: dict[str, list[str]] = {}
    for section in sections:
        machine = section["machine"]
        packages = ", ".join(f"{name} {v}" for name, v in machine["packages"].items())
        sentence = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python "
            f"{machine['python']}; {packages}; {machine['date']}."
        )
        said.setdefault(sentence, []).append(section["name"])
    return [f"{', '.join(names)}: {sentence}" for sentence, names in said.items()]


def _section(section: dict[str, Any]) -> list[str]:
    return [f"## {section['title']}", "", section["note"], "", *_table(section["rows"])]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    body = ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *body]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['min']:.3g}-{value['max']:.3g})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
