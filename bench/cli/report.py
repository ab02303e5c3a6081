"""`bench report`: print saved results again, by the kind that their header names; or write runs as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import spellings
from bench.cli.options import Json, Markdown
from bench.cli.streams import tell

if TYPE_CHECKING:
    from bench.run.record import Run
    from bench.saved import Saved

#: Formats of files, by suffix. A page shows all runs, and plots are an image each.
OF_SUFFIXES = {"html": "page", "md": "markdown", "csv": "csv", "json": "json", "txt": "table", "png": "plots"}
DRAWN = ("page", "plots")
OLD_SPELLINGS = spellings.OF_FORMATS | {
    "--html": "--output", "--png": "--output {}/.png", "--format csv": "--csv", "--format markdown": "--markdown",
}  # fmt: skip


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results that a command of bench wrote.")],
    columns: Annotated[
        str | None,
        typer.Option(help="Further columns of a run's table or Markdown, e.g. us-per-step,ms-per-sample."),
    ] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row a record.")] = False,
    markdown: Markdown = False,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write to this file instead: .html (one page of all runs, with plots), .md, .csv, .json, .txt, or "
            ".png (one image a plot: NAME-PLOT.png). May be repeated.",
        ),
    ] = None,
) -> None:
    """Print saved results again; or write runs as a page, as plots, or in another format."""
    from bench.errors import UserError
    from bench.files import check_absent, write_all

    asked = [name for name, wanted in (("json", json), ("csv", csv), ("markdown", markdown)) if wanted]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} ask for two; leave one out")
    wanted = {path: _format_of(path, asked) for path in output or ()}
    printed = (asked or ["table"])[0]
    prints = not wanted or (bool(asked) and printed not in wanted.values())
    if len(files) > 1 and (prints or not set(wanted.values()) <= set(DRAWN)):
        raise UserError("several files are one page alone: give --output FILE.html or FILE.png, or see bench diff")
    made: dict[Path, bytes] = {}
    runs = _runs(files) if set(wanted.values()) & set(DRAWN) else []
    for path, kind in wanted.items():
        if kind in DRAWN:
            made |= _drawn(runs, path, kind)
        else:
            made[path] = _rendered(files[0], kind, columns or "").encode()
    for path in made:
        check_absent(path, "--output")
    write_all(made)
    for path, kind in wanted.items():
        images = [one for one in made if one.parent == path.parent and one.suffix == ".png"]
        tell(f"bench: wrote {len(images)} plots to {path.parent}" if kind == "plots" else f"bench: wrote {path}")
    if prints:
        print(_rendered(files[0], printed, columns or ""), end="")


def _format_of(output: Path, asked: Sequence[str]) -> str:
    """The format of a file by its suffix; raises UserError for another than was asked for, or a place that is taken."""
    from bench.errors import UserError
    from bench.files import check_absent

    found = OF_SUFFIXES.get(output.name.lower().rpartition(".")[2]) if "." in output.name else None
    if found is None:
        known = ", ".join(f".{suffix}" for suffix in OF_SUFFIXES)
        raise UserError(f"--output {str(output)[:80]!r} ends in none of {known}; give e.g. report.html")
    if asked and found not in (*asked, "plots"):
        raise UserError(f"--{asked[0]} and --output {output.name!r} ask for two; leave one out")
    if output.parent.exists() and not output.parent.is_dir():
        raise UserError(f"--output {str(output)[:80]!r} is in no folder, as {str(output.parent)[:80]!r} is a file")
    check_absent(output, "--output")
    return found


def _rendered(file: Path, format: str, columns: str) -> str:
    from bench import report
    from bench.errors import UserError
    from bench.report import tuning
    from bench.run.file import read_run
    from bench.tune.file import read_tuning

    if _kind(file) == "run":
        run = read_run(file)
        if format in ("csv", "json"):
            _tell_state(run)
        return report.of_run(run, format, columns)
    if columns:
        raise UserError(f"--columns is for runs, and {str(file)!r} holds no run; leave it out")
    return tuning.render(read_tuning(file), format)


def _tell_state(run: Run) -> None:
    """Say what is wrong with the file of a run whose report has no place for a sentence."""
    from bench.run import state

    if wrong := state.of_file(run):
        tell(f"bench: {run.path}: {wrong}")


def _runs(files: Sequence[Path]) -> list[Run]:
    """The runs that are drawn; raises UserError for what cannot be, before any is read."""
    from bench.errors import UserError
    from bench.report.page import render
    from bench.run.file import read_run

    render.check_available("--output")
    for file in files:
        if _kind(file) != "run":
            raise UserError(f"pages and plots show runs, and {str(file)!r} holds no run; leave it out")
    if len({file.resolve() for file in files}) < len(files):
        raise UserError("the same file is given twice; give each run once")
    return [read_run(file) for file in files]


def _drawn(runs: Sequence[Run], path: Path, format: str) -> dict[Path, bytes]:
    """A page of all runs, or their plots by the name of each behind that of `path`."""
    from bench.report.page import render

    if format == "page":
        return {path: render.page(runs).encode()}
    for run in runs:
        _tell_state(run)
    stem = path.name.rpartition(".")[0]
    return {path.with_name(f"{stem}-{name}.png".lstrip("-")): image for name, image in render.images(runs).items()}


def _kind(file: Path) -> str:
    """The kind of `file`, "run" or "tuning"; raises UserError for anything else."""
    from bench.errors import UserError
    from bench.saved import look

    try:
        kind = look(file).kind
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read ({error.strerror}); give a file that bench wrote") from None
    if kind not in ("run", "tuning"):
        raise UserError(f"{str(file)!r} has no results of bench; give a .jsonl file that it wrote")
    return kind


def writer_of(found: Saved) -> str:
    """The command that wrote a file, e.g. `bench compare`; "" for one that no command wrote."""
    from bench.errors import UserError
    from bench.run import registry

    if found.kind != "run":
        return "bench tune" if found.kind == "tuning" else ""
    try:
        return f"bench {registry.load_class(found.workload or 'forward').Options.command}"
    except UserError:
        return f"bench {found.workload}"
