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

    `names` are options, {"--anyway": "--force"}, options with one value, {"--format json": "--json"}, or options whose
    value stands elsewhere now, {"--png": "--output {}/.png"}.
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
        old, equals, value = left.pop(0).partition("=")
        following = value if equals else left[0] if left else ""
        whole = f"{old} {following}"
        now = names.get(whole, names.get(old))
        if now is None:
            found.append(old + equals + value)
            continue
        said = whole if whole in names else old
        tell(f"bench: {said} is now {now.partition(' ')[0] or 'the default'}; it ends with {LAST}")
        if whole not in names and "{}" not in now:
            found.append(now + equals + value)
            continue
        found += now.replace("{}", following).split(" ", 1) if now else []
        del left[: 0 if equals else 1]
    return found + left
