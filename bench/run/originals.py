"""What eager in fp32 gave at each point of a run, which decides who else is bit-identical to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.parity.verdict import as_of_candidate, with_lost_turns
from bench.run.record import Point, Run, Turn
from bench.spec import Candidate

#: Identities of outputs by case.
Identities = Mapping[str, Sequence[str]]


class Originals:
    """Identities of eager's own outputs, asked for once a point."""

    def __init__(self, run: Run, ask: Callable[[Point, Candidate], Identities | None]) -> None:
        """`ask` asks a worker for those of a cell that is begun and has turns; None if it has none to give."""
        self.run, self.ask = run, ask
        self.found: dict[Point, Identities] = {}

    def at(self, point: Point, candidate: Candidate) -> Identities:
        """Those that `candidate` is held against; {} if eager's stored outputs must do, as eager is not there."""
        original = next((one for one in self.run.candidates if one.is_original), None)
        if original is None or candidate.is_original or candidate.precision != original.precision:
            return {}
        if point not in self.found:
            record = self.run.record(point, original)
            told = _of_record(record.parity) if record is not None else self.ask(point, original)
            if told is None:
                return {}
            self.found[point] = told
        return self.found[point]


def _of_record(parity: Mapping[str, Any]) -> dict[str, list[str]]:
    cases = parity.get("cases", {})
    return {name: case["identities"] for name, case in cases.items() if case.get("identities")}


def settled(
    parity: dict[str, Any], reply: Mapping[str, Any], turns: Sequence[Turn], candidate: Candidate
) -> dict[str, Any]:
    """A record's `parity` with the identities of what was judged, and with what became of turns that were not."""
    for name, identities in reply.get("identities", {}).items():
        if name in parity.get("cases", {}):
            parity["cases"][name]["identities"] = identities
    seen = reply.get("seen")
    lost = sum(bool(turn.outputs) and turn.outputs not in seen for turn in turns) if seen else 0
    found: dict[str, Any] = as_of_candidate(with_lost_turns(parity, lost), candidate)
    return found
