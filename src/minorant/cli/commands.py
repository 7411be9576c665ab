"""The commands, their options and their help.

A ``{name}`` in an option's help is filled from ``estimators/options.py`` when the help is shown:
sentence, range and default are declared there, once. Each command hands over to ``work.py`` or
``show.py``, which are imported only then.
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

import minorant

EXIT_CODES = """\b
Exit codes:
  0    done; for fit: the climb converged
  1    an error in minorant itself (MINORANT_DEBUG=1 shows where)
  2    the arguments or the input cannot be used: nothing was written
  3    the climb ended without convergence; the fit was written
  130  interrupted; fit writes the best fit so far, if there is one
"""
TABLES = """\b
Tables: .csv, .tsv, .parquet (.pq), .arrow (.feather, .ipc), or - for CSV on standard
input or output. The first line of a CSV names the columns. Empty cells, NA, NaN, null,
None and N/A are missing; they are integrated out exactly. Messages count rows from 0,
the header left out.
"""


class Model(StrEnum):
    """What ``--model`` may be."""

    GAUSSIAN_MIXTURE = "gaussian-mixture"
    MIXTURE = "mixture"
    LATENT_CLASS = "latent-class"


class Covariance(StrEnum):
    """What ``--covariance`` may be."""

    FULL = "full"
    TIED = "tied"
    DIAGONAL = "diagonal"
    SPHERICAL = "spherical"


class Request(NamedTuple):
    """What ``minorant fit`` was asked."""

    table: str
    model: str
    components: int
    out: str
    covariance: str | None
    types: dict[str, str]
    weights_column: str | None
    labels_column: str | None
    drop: tuple[str, ...]
    starts: str | None
    tolerance: float | None
    max_steps: int | None
    seed: int
    overwrite: bool
    quiet: bool
    on_terminal: bool


class Explained(TyperCommand):
    """A command whose help is filled in from the table of options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Fill in, then write as usual."""
        for parameter in self.params:
            parameter: Any
            parameter.help = explained(getattr(parameter, "help", None))
        super().format_help(ctx, formatter)


def explained(text: str | None) -> str | None:
    """The text with every ``{name}`` replaced by that option's sentence, range and default."""
    if text is None or "{" not in text:
        return text
    from minorant.estimators.options import OPTIONS

    def words(match: re.Match[str]) -> str:
        option = OPTIONS[match[1]]
        default = "" if option.name == "n_components" else f"; default: {option.default}"
        return f"{option.sentence}  [{in_words(option)}{default}]"

    return re.sub(r"\{(\w+)\}", words, text)


def in_words(option: Any) -> str:
    """The range of an option, in words for the command line."""
    return option.range.replace("a str among ", "").translate(str.maketrans("", "", "{}'"))


app = typer.Typer(
    name="minorant",
    help="Fit latent variable models to tables and ask the fits questions. Logarithms are natural.",
    epilog=f"""\b
A first session:
  minorant demo --out demo/
  minorant fit rows.csv --model gaussian-mixture --components 3 --out FIT/
  minorant show FIT/
  minorant score FIT/ rows.csv --out scores.csv
  minorant impute FIT/ rows.csv --out complete.csv
  minorant sample FIT/ -n 1000 --out new.csv

{TABLES}
{EXIT_CODES}
'minorant COMMAND --help' explains each command.""",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FitDirectory = Annotated[
    str, typer.Argument(metavar="FIT", help="The directory that 'minorant fit' wrote.")
]
Rows = Annotated[
    str, typer.Argument(metavar="TABLE", help="The table of rows; - for CSV on input.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]
Seed = Annotated[
    int,
    typer.Option(
        metavar="INT",
        min=0,
        help="Seed of everything that is drawn; the same seed gives the same answer.",
    ),
]
Output = Annotated[
    str,
    typer.Option("--out", "-o", metavar="TABLE", help="The table to write; - for CSV on output."),
]


ModelOption = Annotated[
    Model,
    typer.Option(
        metavar="MODEL",
        help="gaussian-mixture: columns of numbers. mixture: columns of any types, independent "
        "given the component. latent-class: columns of categories.",
    ),
]
Components = Annotated[
    int, typer.Option("--components", "-k", metavar="INT", help="{n_components}")
]
Directory = Annotated[
    str, typer.Option("--out", "-o", metavar="DIR", help="The directory to write.")
]
CovarianceOption = Annotated[
    Covariance | None,
    typer.Option(
        metavar="SHAPE",
        help="For columns of numbers: full (one matrix per component), tied (one matrix for "
        "all), diagonal (one variance per column and component) or spherical (one variance "
        "per component).  [default: full]",
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=TYPE",
        help="The type of a column, in place of the one inferred: gaussian, student-t, "
        "log-normal, gamma, exponential, von-mises, poisson, negative-binomial, bernoulli or "
        "categorical. May be repeated.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of row weights, 0 or more; a whole weight counts as that many copies.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The column of known components, 0 to K-1; -1 or missing where unknown.",
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A column to leave out. May be repeated."),
]
Starts = Annotated[str | None, typer.Option(metavar="INT|auto", help="{n_init}")]
Tolerance = Annotated[float | None, typer.Option(metavar="NATS", help="{tol}")]
MaxSteps = Annotated[int | None, typer.Option(metavar="INT", help="{max_iter}")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the fit that is in DIR.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bar and no notes, only the result.")
]


def _version(asked: bool) -> None:
    if asked:
        print(f"minorant {minorant.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    cls=Explained,
    epilog=f"""\b
Examples:
  minorant fit faithful.csv --model gaussian-mixture --components 2 --out FIT/
  minorant fit penguins.csv --model mixture --components 3 --drop year --out FIT/
  minorant fit counts.parquet --model mixture -k 4 --column visits=poisson --out FIT/
  minorant fit answers.csv --model latent-class -k 2 --weights-column n --out FIT/
  cat rows.csv | minorant fit - --model gaussian-mixture -k 3 --out FIT/

{TABLES}
{EXIT_CODES}""",
)
def fit(  # noqa: PLR0913
    table: Rows,
    model: ModelOption,
    components: Components,
    out: Directory,
    covariance: CovarianceOption = None,
    column: Types = None,
    weights_column: Weights = None,
    labels_column: Labels = None,
    drop: Drop = None,
    starts: Starts = None,
    tolerance: Tolerance = None,
    max_steps: MaxSteps = None,
    seed: Seed = 0,
    overwrite: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Fit a model to TABLE, write the fit to a directory and print a summary."""
    from minorant.cli.work import run_fit

    request = Request(
        table=table,
        model=model.value,
        components=components,
        out=out,
        covariance=covariance.value if covariance else None,
        types=_pairs(column or []),
        weights_column=weights_column,
        labels_column=labels_column,
        drop=tuple(drop or ()),
        starts=starts,
        tolerance=tolerance,
        max_steps=max_steps,
        seed=seed,
        overwrite=overwrite,
        quiet=quiet,
        on_terminal=sys.stderr.isatty(),
    )
    raise typer.Exit(run_fit(request))


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = [word.rpartition("=") for word in words]
    for name, equals, kind in pairs:
        if not (name and equals and kind):
            raise typer.BadParameter(
                f"write NAME=TYPE, as in --column visits=poisson; got {(name + equals + kind)!r}.",
                param_hint="--column",
            )
    return {name: kind for name, _, kind in pairs}


@app.command(
    epilog=f"""\b
Columns written: log_density (log p(x), in nats), component (the most probable one, from 0), and
responsibility_0, responsibility_1, ... (p(component | x)).

\b
Examples:
  minorant score FIT/ rows.csv
  minorant score FIT/ rows.csv --out scores.parquet
  minorant score FIT/ rows.csv --out - | head

{TABLES}"""
)
def score(
    fit: FitDirectory,
    table: Rows,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="TABLE", help="Write one line per row here; - for CSV on output."
        ),
    ] = None,
    weights_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column of row weights in total and mean."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print the total and mean of log p(x); write it per row, with responsibilities."""
    from minorant.cli.work import run_score

    run_score(fit, table, out, weights_column, overwrite)


@app.command(
    epilog="""\b
Examples:
  minorant sample FIT/ -n 1000 --out new.csv
  minorant sample FIT/ -n 5 --seed 7
"""
)
def sample(
    fit: FitDirectory,
    rows: Annotated[int, typer.Option("--rows", "-n", metavar="INT", min=1, help="How many rows.")],
    out: Output = "-",
    components: Annotated[
        bool,
        typer.Option("--with-component", help="Add the column 'component' each row came from."),
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw new rows from a fit."""
    from minorant.cli.work import run_sample

    run_sample(fit, rows, out, components, seed, overwrite)


@app.command(
    epilog=f"""\b
Examples:
  minorant impute FIT/ rows.csv --out complete.csv
  minorant impute FIT/ rows.csv --draw --seed 1 --out draw1.csv

The mean given what is observed is the best single guess, and makes a table less spread than the
data are; use --draw, several times with several seeds, before variances or correlations are
computed. Columns that the fit does not know are passed through.

{TABLES}"""
)
def impute(
    fit: FitDirectory,
    table: Rows,
    out: Output = "-",
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw from p(missing | observed) instead of its mean.")
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fill the missing cells of TABLE."""
    from minorant.cli.work import run_impute

    run_impute(fit, table, out, draw, seed, overwrite)


@app.command(
    epilog="""\b
Example:
  minorant show FIT/
"""
)
def show(fit: FitDirectory) -> None:
    """Print a fit: how the climb ended, the evidence, the components, the optima found."""
    from minorant.cli.show import run_show

    run_show(fit)


@app.command(
    epilog="""\b
Example:
  minorant demo --out demo/
"""
)
def demo(
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")],
) -> None:
    """Fit mixtures to real data that come with minorant, and write pictures and a report."""
    from minorant.cli.work import run_demo

    run_demo(out)
