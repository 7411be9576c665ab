"""The commands, their options and their help.

The arguments are declared in ``arguments.py``. Each command hands over to ``work.py`` or
``show.py``, which are imported only then.
"""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import minorant
from minorant.cli.arguments import (
    CheckpointOption,
    Components,
    CovarianceOption,
    DaskOption,
    Directory,
    Drop,
    Factors,
    FamilyOption,
    FitDirectory,
    Group,
    Input,
    ItemsOption,
    Labels,
    MaxSteps,
    Memory,
    ModelOption,
    Output,
    Overwrite,
    Quiet,
    Random,
    Replace,
    Request,
    Response,
    Resume,
    Rows,
    Seed,
    Starts,
    Time,
    Tolerance,
    Types,
    Weights,
)

EXIT_CODES = """\b
Exit codes:
  0    done; for fit: the climb converged
  1    an error in minorant itself (MINORANT_DEBUG=1 shows where)
  2    the arguments or the input cannot be used: nothing was written
  3    the climb ended without convergence; the fit was written
  130  interrupted; fit writes the best fit so far, if there is one, or with --checkpoint
       keeps the climb there
"""
TABLES = """\b
Tables: .csv, .tsv, .parquet (.pq), .arrow (.feather, .ipc), or - for CSV on standard
input or output. The first line of a CSV names the columns. Empty cells, NA, NaN, null,
None and N/A are missing; they are integrated out exactly. Messages count rows from 0,
the header left out.
"""


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
  minorant fit tests.csv --model factor-analysis --factors 2 --out FIT/
  minorant fit visits.csv --model hidden-markov -k 3 --group patient --time day --out FIT/
  minorant fit flows.csv --model state-space --factors 1 --time year --out FIT/
  minorant fit exam.csv --model latent-trait --items 2pl --out FIT/
  minorant fit seeds.csv --model mixed-model --response germinated --input seed --group plate \\
    --family bernoulli --out FIT/
  cat rows.csv | minorant fit - --model gaussian-mixture -k 3 --out FIT/
  minorant fit 'rows/*.parquet' --model gaussian-mixture -k 8 --memory 2GB --out FIT/
  minorant fit rows.parquet --model gaussian-mixture -k 40 --out FIT/ --checkpoint CLIMB/

{TABLES}
{EXIT_CODES}""",
)
def fit(  # noqa: PLR0913
    table: Rows,
    model: ModelOption,
    out: Directory,
    components: Components = None,
    factors: Factors = None,
    covariance: CovarianceOption = None,
    column: Types = None,
    group: Group = None,
    time: Time = None,
    response: Response = None,
    input: Input = None,  # noqa: A002 - the name of the option
    random: Random = None,
    family: FamilyOption = None,
    items: ItemsOption = None,
    weights_column: Weights = None,
    labels_column: Labels = None,
    drop: Drop = None,
    starts: Starts = None,
    tolerance: Tolerance = None,
    max_steps: MaxSteps = None,
    seed: Seed = 0,
    checkpoint: CheckpointOption = None,
    resume: Resume = False,
    memory: Memory = None,
    dask: DaskOption = None,
    overwrite: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Fit a model to TABLE, write the fit to a directory and print a summary."""
    from minorant.cli.work import run_fit

    large = {"checkpoint": checkpoint, "resume": resume, "memory": memory, "dask": dask}
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
        factors=factors,
        items=items.value if items else None,
        family=family.value if family else None,
        group=group,
        time=time,
        inputs=tuple(input or ()),
        random=tuple(random or ()),
        response=response,
        **large,
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
  minorant score FIT/ 'rows/*.parquet' --out scores.parquet

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
    memory: Memory = None,
    overwrite: Overwrite = False,
) -> None:
    """Print the total and mean of log p(x); write it per row, with responsibilities."""
    from minorant.cli.work import run_score

    run_score(fit, table, out, weights_column, overwrite, memory)


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
    memory: Memory = None,
    overwrite: Overwrite = False,
) -> None:
    """Fill the missing cells of TABLE."""
    from minorant.cli.work import run_impute

    run_impute(fit, table, out, draw, seed, overwrite, memory)


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
  minorant fit rows.parquet --model gaussian-mixture -k 40 --out FIT/ --checkpoint CLIMB/ &
  minorant status CLIMB/
"""
)
def status(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="What was given to 'minorant fit --checkpoint'.")
    ],
) -> None:
    """Print how far a climb is, while it runs or after it was killed, and what to do next."""
    from minorant.checkpoints.status import status

    print(status(directory))


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
