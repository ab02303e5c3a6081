"""`bench report`: print a saved file of results again, by the kind that its header names; or write runs as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.streams import tell

if TYPE_CHECKING:
    from bench.run.record import Run
    from bench.saved import Saved

#: Formats of files, by suffix.
FORMATS_OF_FILES = {".html": "page", ".md": "markdown", ".csv": "csv", ".json": "json", ".txt": "table"}
#: Older spellings of options.
OLD_SPELLINGS = {"--html": "--output"}


@dataclass(frozen=True)
class Kind:
    """One kind of file that is no run: the command that writes it, and what makes a page of it in a format."""

    writer: str
    page: Callable[[Path, str], str]


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results that a command of bench wrote.")],
    format: Annotated[str | None, typer.Option(help="table, markdown, csv or json. [default: table]")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Further columns of a run's table or markdown, e.g. us-per-step,ms-per-sample."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write to this file: .html (one page of all runs, with plots), .md, .csv, .json or .txt."),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Folder to write the plots to, as PNG.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The same as --format markdown: fits a pull request comment.")
    ] = False,
) -> None:
    """Print saved results again; or write runs as a page, or as plots."""
    from bench.errors import UserError
    from bench.files import check_absent, write_all

    if markdown and format not in (None, "markdown"):
        raise UserError(f"--markdown and --format {format[:40]} ask for two; leave one out")
    wanted = "markdown" if markdown else format
    if output is not None:
        wanted = _format_of(output, wanted)
    is_page = wanted == "page"
    prints = not is_page and (png is None or wanted is not None or bool(columns))
    if prints and len(files) > 1:
        raise UserError("several files are one page alone: give --output FILE.html or --png, or see bench diff")
    if is_page or png is not None:
        _draw(files, output if is_page else None, png)
    if prints:
        text = _rendered(files[0], wanted or "table", columns or "")
        if output is None:
            print(text, end="")
        else:
            check_absent(output, "--output")
            write_all({output: text.encode()})
            tell(f"bench: wrote {output}")


def _format_of(output: Path, asked: str | None) -> str:
    """The format of a file by its suffix; raises UserError for an unknown one, or for another than was asked for."""
    from bench.errors import UserError

    found = FORMATS_OF_FILES.get(output.suffix.lower())
    if found is None:
        known = ", ".join(FORMATS_OF_FILES)
        raise UserError(f"--output {str(output)[:80]!r} ends in none of {known}; give e.g. report.html")
    if asked not in (None, found):
        raise UserError(f"--format {str(asked)[:40]} and --output {output.name!r} ask for two; leave one out")
    return found


def _rendered(file: Path, format: str, columns: str) -> str:
    from bench import report
    from bench.errors import UserError
    from bench.run.file import read_run

    kind = _kind(file)
    if kind == "run":
        run = read_run(file)
        if format in ("csv", "json"):
            _tell_state(run)
        return report.of_run(run, format, columns)
    if columns:
        raise UserError(f"--columns is for runs, and {str(file)!r} holds no run; leave it out")
    return KINDS[kind].page(file, format)


def _tell_state(run: Run) -> None:
    """Say what is wrong with the file of a run whose report has no place for a sentence."""
    from bench.run import state

    if wrong := state.of_file(run):
        tell(f"bench: {run.path}: {wrong}")


def _draw(files: Sequence[Path], page: Path | None, png: Path | None) -> None:
    """Write a page of all runs, and their plots to the folder `png`."""
    from bench.errors import UserError
    from bench.files import check_absent, write_all
    from bench.report.page import images, render
    from bench.run.file import read_run

    for option, path in (("--output", page), ("--png", png)):
        if path is not None:
            render.check_available(option)
    if page is not None:
        check_absent(page, "--output")
    if png is not None and png.exists() and not png.is_dir():
        raise UserError(f"--png {str(png)[:80]!r} is no folder; give the name of one")
    for file in files:
        if _kind(file) != "run":
            raise UserError(f"pages and plots show runs, and {str(file)!r} holds no run; leave it out")
    if len({file.resolve() for file in files}) < len(files):
        raise UserError("the same file is given twice; give each run once")
    runs = [read_run(file) for file in files]
    if png is not None:
        for run in runs:
            _tell_state(run)
    made = images.images(runs, png) if png is not None else {}
    for path in made:
        check_absent(path, "--png")
    if page is not None:
        made[page] = render.page(runs).encode()
    write_all(made, "--png" if page is None else "--output")
    if png is not None:
        tell(f"bench: wrote {len(made) - (page is not None)} plots to {png}")
    if page is not None:
        tell(f"bench: wrote {page}")


def _kind(file: Path) -> str:
    """The kind of `file`, "run" or a key of `KINDS`; raises UserError for anything else."""
    from bench.errors import UserError
    from bench.saved import look

    try:
        kind = look(file).kind
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read ({error.strerror}); give a file that bench wrote") from None
    if kind != "run" and kind not in KINDS:
        raise UserError(f"{str(file)!r} has no results of bench; give a .jsonl file that it wrote")
    return kind


def writer_of(found: Saved) -> str:
    """The command that wrote a file, e.g. `bench compare`; "" for one that no command wrote."""
    from bench.errors import UserError
    from bench.run import registry

    if found.kind != "run":
        return KINDS[found.kind].writer if found.kind in KINDS else ""
    try:
        return f"bench {registry.load_class(found.workload or 'forward').Options.command}"
    except UserError:
        return f"bench {found.workload}"


def _tuning_page(file: Path, format: str) -> str:
    from bench.report import tuning
    from bench.tune.file import read_tuning

    return tuning.render(read_tuning(file), format)


#: By the word under "kind" in the header.
KINDS: Mapping[str, Kind] = {
    "tuning": Kind("bench tune", _tuning_page),
}
