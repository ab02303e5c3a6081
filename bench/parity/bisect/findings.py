"""What a bisection compares and what it finds: plain data, and functions on the names in a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, Any]
#: What the axes of a hidden state count.
STATE_AXES = ("batch", "length", None)


@dataclass(frozen=True)
class Value:
    """One value to compare: its name in the reference and in the candidate, and what its axes count."""

    name: str
    ours: str
    axes: tuple[str | None, ...]
    bytes: int
    """In float64."""

    def to_json(self) -> dict[str, Any]:
        """As a request to a worker carries it."""
        return {"name": self.name, "ours": self.ours, "axes": list(self.axes)}


@dataclass
class Findings:
    """What the search has come to know."""

    layer: Figures | None = None
    node: Figures | None = None
    notes: list[str] = field(default_factory=list)
    layers_compared: int = 0
    values_compared: int = 0
    chunk_bytes: int = 0
    undone: dict[str, int] = field(default_factory=dict)
    """Fused operators that ran fewer times with values marked as outputs: the largest count of any chunk."""
    most_marked: int = 0

    def note(self, text: str) -> None:
        """Add a sentence for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """What `bisect` returns."""
        if self.undone:
            counts = ", ".join(f"{count} {operator}" for operator, count in self.undone.items())
            self.note(
                f"marking {self.most_marked} values as outputs undid {counts}: what was compared ran without them"
            )
        return {
            "layer": self.layer,
            "node": self.node,
            "notes": self.notes,
            "layers_compared": self.layers_compared,
            "values_compared": self.values_compared,
            "chunk_bytes": self.chunk_bytes,
        }


def chunks(values: Sequence[Value], most_bytes: int) -> Iterator[list[Value]]:
    """`values` in order, as many at a time as `most_bytes` hold; the last is never alone where there are others.

    The last is the output, and alone it would be computed with nothing else marked.
    """
    chunk: list[Value] = []
    for index, value in enumerate(values):
        is_last = index == len(values) - 1
        if chunk and not is_last and sum(entry.bytes for entry in chunk) + value.bytes > most_bytes:
            yield chunk
            chunk = []
        chunk.append(value)
    if chunk:
        yield chunk


def values_between(surveyed: Sequence[Mapping[str, Any]], good: Sequence[str], bad: str | None) -> list[dict[str, Any]]:
    """Values of a program that the state `bad` (None: the output) is computed from and no state of `good` is."""
    needed: dict[str, set[str]] = {}
    for entry in surveyed:
        needed[entry["name"]] = {entry["name"]}.union(*(needed.get(name, set()) for name in entry["inputs"]))
    is_target = [entry["is_output"] if bad is None else bad in entry["states"] for entry in surveyed]
    wanted = set().union(*(needed[entry["name"]] for entry, is_one in zip(surveyed, is_target, strict=True) if is_one))
    wanted = wanted or set(needed)  # a state that the program does not have: all that no good state needs
    settled = set().union(*(needed[entry["name"]] for entry in surveyed if set(entry["states"]) & set(good)))
    return [dict(entry) for entry in surveyed if entry["name"] in wanted - settled]


def operations(values: Mapping[str, Sequence[Any]], name: str, known: set[str]) -> dict[str, Any]:
    """The operation that makes value `name`, and all back to values of `known` names, with what these read.

    `values` are [operation, inputs] by name. `reads` are weights and other constants and inputs of the graph.
    """
    taken: dict[str, None] = {}
    reads: dict[str, None] = {}

    def walk(value: str) -> None:
        for source in values[value][1]:
            if source not in values:
                reads[source] = None
            elif source not in known and source not in taken:
                walk(source)
        taken[value] = None

    walk(name)
    return {
        "op_type": values[name][0],
        "operations": list(dict.fromkeys(values[value][0] for value in taken)),
        "reads": list(reads),
    }


def told(figures: Mapping[str, Any]) -> Figures:
    """What of a value's figures goes into the result."""
    return {name: value for name, value in figures.items() if name != "leaves_tolerance"}
