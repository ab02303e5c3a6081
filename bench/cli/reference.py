"""The reference pages in docs/reference, one a command: `python -m bench.cli.reference` writes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

FOLDER = Path("docs/reference")
_NOTE = "<!-- Written by `python -m bench.cli.reference`; do not edit. -->\n\n"
_HEADER = "| option | value | default | |\n|---|---|---|---|\n"


def pages() -> dict[str, str]:
    """Every page by the name of its file; README.md lists them."""
    from bench.cli import app

    group: Any = typer.main.get_command(app)
    context = group.make_context("bench", [], resilient_parsing=True)
    found, lines = {}, []
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        found[f"{name}.md"] = _NOTE + "\n".join(_sections(command, context, name, "#"))
        lines.append(f"- [`bench {name}`]({name}.md): {_sentence(command)}\n")
    found["README.md"] = f"{_NOTE}# Commands\n\n{''.join(lines)}"
    return found


def _sections(command: Any, parent: Any, name: str, heading: str) -> Iterator[str]:
    """The section of one command, then those of its own commands."""
    context = command.context_class(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = "".join(_row(parameter, context) for parameter in command.params if not getattr(parameter, "hidden", False))
    table = f"\n{_HEADER}{rows}" if rows else ""
    yield f"{heading} {context.command_path}\n\n{_sentence(command)}\n\n```\n{usage}\n```\n{table}"
    for one in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _sections(command.get_command(context, one), context, one, heading + "#")


def _sentence(command: Any) -> str:
    return " ".join((command.help or "").split())


def _row(parameter: Any, context: Any) -> str:
    """One row of a table: names, what stands for the value, the default, what it is for."""
    left, right = parameter.get_help_record(context) or (parameter.make_metavar(context), "")
    names = re.findall(r"--[a-z][a-z0-9-]*", left) or left.split()[:1]
    value = left.split(names[-1], 1)[1].strip()
    says = " ".join(right.split())
    default = ""
    if stated := re.fullmatch(r"(.*?) ?\[(?:default: |(?=required))(.*)\]", says):
        says, default = stated.groups()
    cells = [" / ".join(f"`{name}`" for name in names), value and f"`{value}`", default, says]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main(folder: Path) -> None:
    """Write every page that is not as it should be, and remove those of commands that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in folder.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
