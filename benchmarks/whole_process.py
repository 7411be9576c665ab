"""Whole processes: import an estimator, fit iris, print; imports; the command line's help."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

PROGRAMS = Path(__file__).parent / "programs"
NOTE = (
    "Wall seconds of a new process: median (min-max), all programs in turn; files in the page "
    "cache, byte code compiled. Cold: an empty compilation cache each time; warm: one that an "
    "earlier run of the same program filled. Both iris programs read the same csv file."
)


def iris_file() -> str:
    """The csv file that scikit-learn ships."""
    spec = importlib.util.find_spec("sklearn")
    return str(Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "iris.csv")


def programs(warm: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Command and environment of everything timed; an empty cache directory where it says cold."""
    python, iris = sys.executable, iris_file()
    ours = [python, str(PROGRAMS / "iris_minorant.py"), iris]
    return {
        "iris, ours, cold": (ours, {}),
        "iris, ours, warm": (ours, {"MINORANT_CACHE": warm}),
        "iris, scikit-learn": ([python, str(PROGRAMS / "iris_sklearn.py"), iris], {}),
        "import minorant": ([python, "-c", "import minorant"], {}),
        "import minorant, GaussianMixture": (
            [python, "-c", "from minorant.estimators import GaussianMixture"],
            {},
        ),
        "import jax": ([python, "-c", "import jax"], {}),
        "import sklearn.mixture": ([python, "-c", "import sklearn.mixture"], {}),
        "minorant --help": ([str(Path(python).with_name("minorant")), "--help"], {}),
        "python -c pass": ([python, "-c", "pass"], {}),
    }


def timed(command: list[str], variables: dict[str, str], wait: float) -> dict[str, Any]:
    """One run, with a compilation cache of its own unless one is named."""
    with tempfile.TemporaryDirectory() as empty:
        return measure.child(command, wait=wait, **({"MINORANT_CACHE": empty} | variables))


def measured(rounds: int, wait: float) -> dict[str, list[dict[str, Any]]]:
    """All programs in turn, after one run of each that does not count."""
    with tempfile.TemporaryDirectory() as warm:
        chosen = programs(warm)
        for command, variables in chosen.values():
            timed(command, variables, 0.0)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for _ in range(rounds):
            for name, (command, variables) in chosen.items():
                found[name].append(timed(command, variables, wait))
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    found = measured(2 if chosen.quick else 2 * chosen.rounds + 1, min(chosen.wait, 10.0))
    section = Section("whole_process", "Whole processes", NOTE)
    for name, each in found.items():
        seconds = measure.summary([one["wall"] for one in each])
        others = statistics.median(one["others"] for one in each)
        section.rows.append({"program": name, "s": seconds, "others": others})
        section.samples.append({"program": name, "rounds": each})
    median = {row["program"]: row["s"]["median"] for row in section.rows}
    _targets(section, median, statistics.median(row["others"] for row in section.rows))
    save(section, chosen.quick)


def _targets(section: Section, median: dict[str, float], others: float) -> None:
    theirs, jax = median["iris, scikit-learn"], median["import jax"]
    for state, most in (("cold", 1.2), ("warm", 1.0)):
        ratio = median[f"iris, ours, {state}"] / theirs
        work = f"whole process: iris K=3, {state} compilation cache"
        section.target(work, f"<= {most}x scikit-learn's", f"{ratio:.2f}x", ratio <= most, others)
    ratio = median["import minorant"] / jax
    section.target("import minorant", "<= 1.1x import jax", f"{ratio:.2f}x", ratio <= 1.1, others)
    seconds = median["minorant --help"]
    section.target("minorant --help", "<= 0.4 s", f"{seconds:.2f} s", seconds <= 0.4, others)


if __name__ == "__main__":
    main()
