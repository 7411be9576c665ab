"""Thousands of components: the truncated E-step against the full one, K = 2000, d = 16, n = 10^6.

Each scene in a process of its own. Single steps are timed at the parameters that the rows were
drawn with, the fastest of two (full) and three (truncated); the loss is what the truncated bound
lies below log p(X) there. A smaller scene, K = 500 and n = 10^5, is also climbed, by both E-steps
from one start for equal steps; the truncated climb's seconds are those of the whole call, its first
lists and the measured loss included.
"""

from __future__ import annotations

from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SHAPE, SMALL_SHAPE = (1_000_000, 2000, 16), (50_000, 200, 8)
SCENES = {"separate": 1.0, "overlapping": 0.75, "overlapping more": 0.6}
CLIMBED, CLIMBED_SHAPE, CLIMBED_LENGTHS = "overlapping", (100_000, 500, 16), "8"
LENGTHS = "5,6,8"
STEPS, MODULE = 30, "many_components_steps"
NOTE = (
    "Full covariances, float64; rows drawn from a mixture. `loss`: nats per row by which the "
    "truncated bound lies below log p, and as a share of it. `ratio`: full / truncated. `log p`: "
    "per row, by the full E-step, at the end of the climb; `at equal CPU`: of the full climb, in "
    "the processor time of the truncated one. `others`: cores used by other processes."
)


def rows(scene: str, shape: tuple[int, ...], found: dict[str, Any]) -> list[dict[str, Any]]:
    """The table's rows of one scene."""
    full = found["steps"][0]["seconds"]
    head = {"(n, K, d)": str(shape), "scene": scene}
    return [
        head | one | {"ratio": full / one["seconds"], "others": found["others"]}
        for one in found["steps"]
    ] + [head | {"E-step": name} | one for name, one in _climbed(found).items()]


def _climbed(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if "climbs" not in found:
        return {}
    climbs = found["climbs"]
    return {
        f"{kind}, climb of {climbs['steps']} steps": {
            "seconds": climbs[f"{kind}_seconds"],
            "CPU": climbs[f"{kind}_cpu"],
            "log p": climbs[f"{kind}_log_p"],
            "full log p at equal CPU": climbs["full_log_p_then"],
            "ratio": climbs["full_seconds"] / climbs[f"{kind}_seconds"],
        }
        for kind in ("full", "truncated")
    }


def judge(section: Section, scene: str, found: dict[str, Any]) -> None:
    """The best ratio among lengths that lose no more than 0.3%."""
    full, *others = found["steps"]
    sound = [one for one in others if one["share"] <= 0.003]
    best = max((full["seconds"] / one["seconds"] for one in sound), default=0.0)
    work = f"full against truncated step, {scene}, at <= 0.3% loss of the bound"
    section.target(work, ">= 15", f"{best:.1f}", best >= 15, found["others"])


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    shape = SMALL_SHAPE if chosen.quick else SHAPE
    section = Section("many_components", "Many components: the truncated E-step", NOTE)
    for scene, scale in SCENES.items():
        found = measure.module(MODULE, scale, *shape, LENGTHS, 0, wait=chosen.wait)
        section.rows += rows(scene, shape, found)
        judge(section, scene, found)
        save(section, chosen.quick)
    smaller = SMALL_SHAPE if chosen.quick else CLIMBED_SHAPE
    arguments = (SCENES[CLIMBED], *smaller, CLIMBED_LENGTHS, STEPS)
    found = measure.module(MODULE, *arguments, wait=chosen.wait)
    section.rows += rows(f"{CLIMBED}, climbed", smaller, found)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
