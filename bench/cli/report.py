"""`bench report`: print a saved file of results again, by the kind that its header names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class Kind:
    """One kind of file: the command that writes it, and what makes a page of it in a format."""

    writer: str
    page: Callable[[Path, str], str]


def command(
    file: Annotated[Path, typer.Argument(help="File of results (.jsonl) that a command of bench wrote.")],
    format: Annotated[
        str,
        typer.Option(help="table or json; runs of bench compare and corpus also as csv, compare's as markdown too."),
    ] = "table",
    columns: Annotated[
        str | None,
        typer.Option(help="Further columns of a run's table or markdown, e.g. us-per-step,ms-per-sample."),
    ] = None,
) -> None:
    """Print a saved file of results again."""
    from bench.errors import UserError
    from bench.linesfile import kind_of
    from bench.report.columns import parse_columns

    further = parse_columns(columns)
    writers = [kind.writer for kind in KINDS.values()]
    named = kind_of(file, writers)
    if named not in KINDS:
        raise UserError(f"{str(file)!r} is no run of {' or '.join(writers)}; give a .jsonl file that it wrote")
    if further and named != "run":
        raise UserError(f"--columns is for runs of bench compare, and {str(file)!r} is none; leave it out")
    print(_run_page(file, format, further) if further else KINDS[named].page(file, format), end="")


def _run_page(file: Path, format: str, columns: Sequence[str] = ()) -> str:
    from bench import report
    from bench.runfile import read_run

    return report.render(read_run(file), format, columns)


def _generation_page(file: Path, format: str) -> str:
    from bench.generation.records import read_generation
    from bench.report import generation

    return generation.render(read_generation(file), format)


def _corpus_page(file: Path, format: str) -> str:
    from bench.corpora.runfile import read_corpus_run
    from bench.report import corpus

    return corpus.render(read_corpus_run(file), format)


def _memory_page(file: Path, format: str) -> str:
    from bench.footprint.results import read_memory
    from bench.report import memory

    return memory.render(read_memory(file), format)


def _load_page(file: Path, format: str) -> str:
    from bench.report import load
    from bench.serving.runfile import read_load

    return load.render(read_load(file), format)


#: By the word under "kind" in the header.
KINDS: Mapping[str, Kind] = {
    "run": Kind("bench compare", _run_page),
    "generation": Kind("bench generate", _generation_page),
    "corpus": Kind("bench corpus", _corpus_page),
    "memory": Kind("bench memory", _memory_page),
    "load": Kind("bench load", _load_page),
}
