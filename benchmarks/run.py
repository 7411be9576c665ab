"""Every benchmark, one after the other: ``python -m benchmarks.run``; see ``README.md``."""

from __future__ import annotations

import importlib
import time

from benchmarks import options, report

SECTIONS = (
    "em_step",
    "bare_products",
    "memory",
    "whole_process",
    "time_to_optimum",
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
    "dask_workers",
    "many_components",
)


def accelerated(quick: bool) -> None:
    """The table of acceleration rules, in the report; it counts steps and needs no quiet."""
    if quick:
        return
    importlib.import_module("benchmarks.acceleration").main()
    text = (report.RESULTS / "acceleration.md").read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text if line[:1] == "|"
    ]
    rows = [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
    report.save(report.Section("acceleration", text[0].lstrip("# "), text[2], rows), quick)


def main() -> None:
    """Run the sections, or those named by ``--only``."""
    chosen = options.parsed(None, __doc__)
    wanted = chosen.only or (*SECTIONS, "acceleration")
    for name in wanted:
        began = time.monotonic()
        if name == "acceleration":
            accelerated(chosen.quick)
        else:
            importlib.import_module(f"benchmarks.{name}").main()
        print(f"{name}: {time.monotonic() - began:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
