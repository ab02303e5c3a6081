"""Commands that measure, each made from the options that its workload declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import Json
from bench.cli.screen import Screen
from bench.cli.spellings import negated
from bench.described import default_shown, metavar
from bench.options import Options, declaration, spelling

if TYPE_CHECKING:
    from bench.run.record import Run
    from bench.run.workload import Workload

#: Options of every such command that no workload declares: they say how to run and to report, and not what is measured.
OF_THE_COMMAND = {
    "columns": Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Further columns of the table, by their names in the JSON.")
    ],
    "resume": Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on with an interrupted run, under the options it began with."),
    ],
    "json": Json,
    "quiet": Annotated[bool, typer.Option("--quiet", help="Print the report alone, without progress.")],
}
#: What an option is if it is not given, if that is not None.
NOT_GIVEN = {"context": inspect.Parameter.empty, "json": False, "quiet": False}
#: What may be given with --resume.
_WITH_RESUME = {*OF_THE_COMMAND, "artifacts", "until_decided", "traffic", "module", "python"}


def command_for(workload: type[Workload]) -> Callable[..., None]:
    """The function that typer makes the command of a workload from.

    Raises UserError for a workload that declares an option which every command has.
    """
    from bench.errors import UserError

    declared = workload.Options.declared()
    for one in declared:
        if one.name in OF_THE_COMMAND:
            raise UserError(
                f"workload {workload.name!r} declares {spelling(one.name)}, which every command has; rename it"
            )

    return made_of(workload.Options, OF_THE_COMMAND, partial(_run, workload))


def made_of(options: type[Options], further: Mapping[str, Any], run: Callable[..., int]) -> Callable[..., None]:
    """The function that typer makes a command from, of declared options and of `further` ones as typer has them.

    It ends with the exit code that `run(context, given, **further)` returns; `given` are words by option.
    """

    def command(context: typer.Context, **given: Any) -> None:
        asked = {name: given.pop(name) for name in further}
        given = {name: tuple(one) or None if isinstance(one, list) else one for name, one in given.items()}
        raise typer.Exit(run(context, given, **asked))

    annotations = (
        {"context": typer.Context} | {one.name: _annotation(one) for one in options.declared()} | dict(further)
    )
    command.__doc__ = options.summary
    command.__annotations__ = annotations | {"return": None}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=NOT_GIVEN.get(name))
            for name, annotation in annotations.items()
        ]
    )
    return command


def _annotation(of: Field[Any]) -> Any:
    """An option as typer takes it: a word or a flag, None if it is not given. Its parser is the declaration's."""
    declared, name = declaration(of), spelling(of.name)
    says = declared.help + (f" [default: {default_shown(of)}]" if default_shown(of) else "")
    if declared.flag:
        return Annotated[bool | None, typer.Option(f"{name}/{negated(name)}", help=says)]
    type_ = list[str] | None if declared.repeats else str | None
    return Annotated[type_, typer.Option(name, metavar=metavar(of), help=says)]


def _run(
    workload: type[Workload],
    context: typer.Context,
    given: dict[str, Any],
    columns: str | None,
    resume: Path | None,
    json: bool,
    quiet: bool,
) -> int:
    """Measure or go on, print the report, and return the exit code."""
    from bench.choose.api import exit_code
    from bench.errors import BenchError
    from bench.report import parts
    from bench.run import experiment

    screen = Screen(quiet)
    parts.columns_named(workload(workload.Options()).all_columns, columns)
    try:
        if resume is None:
            run = experiment.measure(workload, workload.Options.parsed(given), screen.listener)
        else:
            _check_resume(workload, context, resume)
            artifacts = given["artifacts"] or "artifacts"
            again: dict[str, Any] = {name: given.get(name) for name in ("until_decided", "traffic", "module")}
            again["python"] = given["python"] or ()
            run = experiment.resume(resume, artifacts=artifacts, listener=screen.listener, **again)
    except KeyboardInterrupt:
        screen.stopped()
        return 130
    except SystemExit:  # SIGTERM
        screen.stopped()
        raise
    except BenchError:
        if screen.run is not None and screen.run.records:
            _print(screen.run, columns, json)
        raise
    _print(run, columns, json)
    return exit_code(run)


def _check_resume(workload: type[Workload], context: typer.Context, path: Path) -> None:
    """Raise UserError for an option that the run's own would contradict, or for a run of another command."""
    from bench.errors import UserError
    from bench.run.file import read_run

    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _WITH_RESUME and source is not None and source.name == "COMMANDLINE":
            raise UserError(
                f"{spelling(name)} cannot be given with --resume, which goes on under the run's own options; "
                "leave it out"
            )
    command = read_run(path).options.command
    if command != workload.Options.command:
        raise UserError(f"{str(path)!r} is a run of bench {command}; run: bench {command} --resume {path}")


def _print(run: Run, columns: str | None, as_json: bool) -> None:
    if as_json:
        from bench.report import documents

        print(documents.as_json(run).rstrip("\n"))
    else:
        from bench.report import console, ending

        print(console.render(run, columns or ()).rstrip("\n"))
        if text := ending.render(run):
            print(f"\n{text}", end="")
