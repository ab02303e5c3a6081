"""Older spellings of options: understood until 0.3.0, with a line that names the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from typer.core import TyperCommand

from bench.cli.streams import tell
from bench.options import Options, declaration, spelling

#: Version with which older spellings end; a test fails then.
LAST = "0.3.0"
#: The option that said how a command reports: what stands for each of its values, "" for what is printed anyway.
OF_FORMATS = {"--format json": "--json", "--format table": ""}
#: Options whose singular is taken for them.
_SINGULARS = {"batches": "--batch", "lengths": "--length", "orders": "--order"}


def of_options(options: type[Options]) -> dict[str, str]:
    """Older spellings of declared options, with what each is now."""
    found = {}
    for one in options.declared():
        now, singular = spelling(one.name), _SINGULARS.get(one.name)
        for old in (*declaration(one).aliases, *([singular] if singular else [])):
            found[old] = now
            if declaration(one).flag:
                found[negated(old)] = negated(now)
    return {old: now for old, now in found.items() if old not in {spelling(one.name) for one in options.declared()}}


def negated(flag: str) -> str:
    """The option that switches a flag off, e.g. `--no-search`."""
    return "--no-" + flag.removeprefix("--")


def taking(names: Mapping[str, str]) -> type[TyperCommand]:
    """A class of commands that take older spellings, given with what each is now.

    `names` are options, {"--anyway": "--force"}, or options with a value, {"--format json": "--json"}.
    """

    class Renaming(TyperCommand):
        renamed: ClassVar[Mapping[str, str]] = dict(names)

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, _respelled(args, self.renamed))

    return Renaming


def _respelled(words: list[str], names: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    left = list(words)
    while left and left[0] != "--":
        word = left.pop(0)
        old, equals, value = word.partition("=")
        whole = f"{old} {value}" if equals else " ".join([word, *left[:1]])
        if whole in names:
            del left[: 0 if equals else 1]
            tell(f"bench: {whole} is now {names[whole] or 'the default'}; it ends with {LAST}")
            found += [names[whole]] if names[whole] else []
            continue
        if old in names:
            tell(f"bench: {old} is now {names[old]}; it ends with {LAST}")
        found.append(names.get(old, old) + equals + value)
    return found + left
