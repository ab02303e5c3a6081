"""`bench report`: print a saved file of results again, by the kind that its header names; or write runs as a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.streams import tell


@dataclass(frozen=True)
class Kind:
    """One kind of file: the command that writes it, and what makes a page of it in a format."""

    writer: str
    page: Callable[[Path, str], str]


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results that a command of bench wrote.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="table or json; runs of compare and corpus also csv, of compare also markdown. [default: table]"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Further columns of a run's table or markdown, e.g. us-per-step,ms-per-sample."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write runs of bench compare as one page with plots, that fetches nothing.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Folder to write the plots to, as PNG.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The same as --format markdown: fits a pull request comment.")
    ] = False,
) -> None:
    """Print saved results again; or write runs of bench compare as a page, or as plots."""
    from bench.errors import UserError
    from bench.report.columns import parse_columns

    if markdown and format not in (None, "markdown"):
        raise UserError(f"--markdown and --format {format[:40]} ask for two; leave one out")
    wanted = "markdown" if markdown else format
    further = parse_columns(columns)
    writes = html is not None or png is not None
    prints = not writes or wanted is not None or bool(further)
    if prints and len(files) > 1:
        raise UserError("several files are one page alone: give --html or --png without a format, or see bench diff")
    if writes:
        _write(files, html, png)
    if prints:
        _print(files[0], wanted or "table", further)


def _print(file: Path, format: str, further: Sequence[str]) -> None:
    from bench.errors import UserError

    named = _kind(file)
    if named == WORKLOAD:
        print(_page_of_any(file, format, further), end="")
        return
    if further and named != "run":
        raise UserError(f"--columns is for runs of bench compare, and {str(file)!r} is none; leave it out")
    print(_run_page(file, format, further) if further else KINDS[named].page(file, format), end="")


def _write(files: Sequence[Path], html: Path | None, png: Path | None) -> None:
    from bench.errors import UserError
    from bench.report.files import check_absent, write_all
    from bench.report.old_page import images, render
    from bench.runfile import read_run

    for option, path in (("--html", html), ("--png", png)):
        if path is not None:
            render.check_available(option)
    if html is not None:
        check_absent(html, "--html")
    if png is not None and png.exists() and not png.is_dir():
        raise UserError(f"--png {str(png)[:80]!r} is no folder; give the name of one")
    for file in files:
        if _kind(file) != "run":
            option = "--html" if html is not None else "--png"
            raise UserError(f"{option} is for runs of bench compare, and {str(file)!r} is none; leave it out")
    if len({file.resolve() for file in files}) < len(files):
        raise UserError("the same file is given twice; give each run once")
    runs = [read_run(file) for file in files]
    made = images.images(runs, png) if png is not None else {}
    for path in made:
        check_absent(path, "--png")
    if html is not None:
        made[html] = render.page(runs).encode()
    write_all(made, "--png" if html is None else "--html")
    if png is not None:
        tell(f"bench: wrote {len(made) - (html is not None)} plots to {png}")
    if html is not None:
        tell(f"bench: wrote {html}")


def _kind(file: Path) -> str:
    """The kind of `file`, a key of `KINDS`; raises UserError for anything else."""
    from bench.errors import UserError
    from bench.linesfile import kind_of

    writers = [kind.writer for kind in KINDS.values()]
    named = kind_of(file, writers)
    if named == "run" and is_of_a_workload(file):
        return WORKLOAD
    if named not in KINDS:
        raise UserError(f"{str(file)!r} is no run of {' or '.join(writers)}; give a .jsonl file that it wrote")
    return named


def _run_page(file: Path, format: str, columns: Sequence[str] = ()) -> str:
    from bench import report
    from bench.runfile import read_run

    return report.render(read_run(file), format, columns)


def _corpus_page(file: Path, format: str) -> str:
    from bench.corpora.runfile import read_corpus_run
    from bench.report import corpus

    return corpus.render(read_corpus_run(file), format)


def is_of_a_workload(file: Path) -> bool:
    """True for a run of schema 5 or later, of any workload."""
    with file.open("rb") as opened:
        header = json.loads(opened.readline())
    return "workload" in header


def _page_of_any(file: Path, format: str, columns: Sequence[str]) -> str:
    from bench.report import check_format, console, documents
    from bench.run.file import read_run

    check_format(format, FORMATS)
    run = read_run(file)
    if format == "table":
        return console.render(run, columns)
    if format == "markdown":
        return documents.as_markdown(run, columns)
    return documents.as_json(run) if format == "json" else documents.as_csv(run)


def _tuning_page(file: Path, format: str) -> str:
    from bench.report import tuning
    from bench.tuning.reading import read_tuning

    return tuning.render(read_tuning(file), format)


#: In place of a kind, for a run of schema 5 or later.
WORKLOAD = "workload"
FORMATS = ("table", "json", "csv", "markdown")
#: By the word under "kind" in the header.
KINDS: Mapping[str, Kind] = {
    "run": Kind("bench compare", _run_page),
    "corpus": Kind("bench corpus", _corpus_page),
    "tuning": Kind("bench tune", _tuning_page),
}
