"""The options that every section takes."""

from __future__ import annotations

import argparse
import os


def parsed(argv: list[str] | None, text: str | None) -> argparse.Namespace:
    """Read the options from ``argv``, or from the command line."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of processes (default 3)")
    parser.add_argument(
        "--wait", type=float, default=60.0, help="seconds to wait for a quiet machine, each time"
    )
    parser.add_argument(
        "--peer-python",
        default=os.environ.get("MINORANT_PEER_PYTHON"),
        help="interpreter that has torch and pomegranate (or set MINORANT_PEER_PYTHON)",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=None,
        help="sections of benchmarks.run, or targets of benchmarks.published",
    )
    chosen = parser.parse_args(argv)
    chosen.wait = 0.0 if chosen.quick else chosen.wait
    return chosen
