"""Hold the code to its size budget: `python tools/check_size.py`.

No function over 60 lines and no file over 400, in every folder of code. In `src` the median
function has at most 7 lines and the 90th percentile at most 25 (the aim: 6 and 22). A function's
length leaves out its docstring and decorators; a function inside a function counts too.
"""

import ast
import math
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("src", "tests", "tools", "benchmarks", "examples")
LONGEST_FUNCTION, LONGEST_FILE = 60, 400
LIMITS = {0.5: 7, 0.9: 25}
AIMS = {0.5: 6, 0.9: 22}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def function_length(node: Function) -> int:
    """Lines from `def` to the last one, less the docstring."""
    length = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is None:
        return length
    docstring = node.body[0]
    return length - (docstring.end_lineno - docstring.lineno + 1)


def function_lengths(tree: ast.AST) -> Iterator[tuple[Function, int]]:
    """Every function of a file, nested ones too, with its length."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node, function_length(node)


def file_complaints(path: Path, lines: int, functions: list[tuple[Function, int]]) -> list[str]:
    """One sentence for each limit that the file breaks."""
    found = []
    if lines > LONGEST_FILE:
        found.append(f"{path}: {lines} lines, more than {LONGEST_FILE}")
    for node, length in functions:
        if length > LONGEST_FUNCTION:
            where = f"{path}:{node.lineno}: {node.name}"
            found.append(f"{where}: {length} lines, more than {LONGEST_FUNCTION}")
    return found


def quantile(lengths: list[int], level: float) -> int:
    """The smallest length that a share `level` of all does not exceed."""
    return sorted(lengths)[max(0, math.ceil(level * len(lengths)) - 1)]


def quantile_complaints(lengths: list[int]) -> list[str]:
    """Report the quantiles of `src`; one sentence for each above its limit."""
    if not lengths:
        return []
    found = []
    for level, limit in LIMITS.items():
        value = quantile(lengths, level)
        print(f"src: {level:.0%} of {len(lengths)} functions have at most {value} lines", end="")
        print(f" (aim {AIMS[level]}, limit {limit})")
        if value > limit:
            found.append(f"src: {level:.0%} quantile of function lengths is {value}, over {limit}")
    return found


def main() -> int:
    """Check every file; print what is too long.

    Returns:
        The exit status: 1 when something is.
    """
    root = Path(__file__).resolve().parent.parent
    complaints, src_lengths = [], []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(root)
        functions = list(function_lengths(ast.parse(text, filename=str(name))))
        complaints += file_complaints(name, len(text.splitlines()), functions)
        if name.parts[0] == "src":
            src_lengths += [length for _, length in functions]
    complaints += quantile_complaints(src_lengths)
    print("\n".join(complaints) or "sizes: within the budget")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
