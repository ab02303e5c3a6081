"""How a declared option is described, in the help of a command, the reference pages and the API's documentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field
from typing import Any

from bench.options import declaration, shown_seconds, shown_share, spelling


def metavar(of: Field[Any]) -> str:
    """Stands for the value of an option, e.g. `N`, `TIME`, or the option's name."""
    declared, type_ = declaration(of), str(of.type)
    if declared.metavar:
        return declared.metavar
    by_show: dict[Callable[[Any], str], str] = {shown_seconds: "TIME", shown_share: "SHARE"}
    by_type = {"tuple[int, ...]": "N,...", "tuple[str, ...]": "NAME,...", "int": "N", "float": "NUMBER"}
    plain = type_.removesuffix(" | None").removeprefix("str | ")
    return by_show.get(declared.show) or by_type.get(plain, of.name.upper())


def default_shown(of: Field[Any]) -> str:
    """An option's default as its help has it; "" if there is nothing to say."""
    declared, default = declaration(of), of.default
    if declared.flag:
        return spelling(of.name).removeprefix("--") if default else ""
    if declared.default_shown or default in (None, ()):
        return declared.default_shown
    return declared.show(default)
