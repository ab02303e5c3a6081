"""Workloads by name, loaded only when asked for; third parties add one through the entry-point group."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.spec import nearest

if TYPE_CHECKING:
    from bench.run.workload import Workload

ENTRY_POINT_GROUP = "bench.workloads"
BUILT_IN = {
    "forward": "bench.workloads.forward:Forward",
    "corpus": "bench.workloads.corpus:Corpus",
    "load": "bench.workloads.load:Load",
    "coldstart": "bench.workloads.coldstart:ColdStart",
    "generate": "bench.workloads.generate:Generate",
    "memory": "bench.workloads.memory:Memory",
    "parity": "bench.workloads.parity:Parity",
}


def names() -> dict[str, str]:
    """Every workload as name -> "module:Class"; built-in ones come first and win."""
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return BUILT_IN | {name: home for name, home in found.items() if name not in BUILT_IN}


def load_class(name: str) -> type[Workload]:
    """The class of a workload; raises UserError for an unknown name or one that cannot be imported."""
    known = names()
    if name not in known:
        what = f"unknown workload {name[:40]!r}{nearest(name, known)}; known are {', '.join(known)}"
        raise UserError(f"{what}; install the package that adds it")
    module, _, attribute = known[name].partition(":")
    try:
        found: type[Workload] = getattr(import_module(module), attribute)
    except Exception as error:  # a plugin may raise anything
        raise UserError(f"workload {name!r} cannot be loaded from {known[name]} ({error}); reinstall it") from None
    return found
