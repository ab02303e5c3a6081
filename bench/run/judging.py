"""How outputs are judged while a run goes on: each worker compares its own with the stored references."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.parity.verdict import OUTCOMES, as_of_candidate, tolerance_of, with_lost_turns
from bench.run.record import Point, Run, Turn

if TYPE_CHECKING:
    from bench.run.preparation import Preparation
    from bench.run.schedule import OpenCell
    from bench.spec import Candidate

#: Figures of a worker's memory that belong to one cell.
PEAKS_OF_MEMORY = (
    "peak_process_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_device_process_bytes",
)  # fmt: skip
#: Identities of outputs by case.
Identities = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Judgement:
    """What outputs were judged as."""

    reply: dict[str, Any]
    """Of the worker."""
    parity: dict[str, Any]

    @property
    def verdict(self) -> str:
        """Of parity; "" if nothing is judged."""
        return str(self.parity.get("verdict", ""))

    @property
    def peaks(self) -> dict[str, int]:
        """Bytes that were held at most during the judged call."""
        return {name: held for name, held in self.reply.get("memory", {}).items() if name in PEAKS_OF_MEMORY}

    @property
    def seen(self) -> frozenset[str]:
        """Checksums of all outputs of turns that the worker saw."""
        return frozenset(self.reply.get("seen", ()))


#: Of a cell that ended before it was judged.
NOTHING = Judgement({}, {})


class Judging:
    """What the cells of one run were judged as so far."""

    def __init__(self, run: Run, prepared: Preparation) -> None:
        self.run, self.prepared, self.workload = run, prepared, run.workload
        self.found: dict[tuple[Point, Candidate], list[Judgement]] = {}
        """Of open cells; a cell is judged again if its later turns gave other outputs."""
        self.original = next((one for one in run.candidates if one.is_original), None)

    def is_due(self, point: Point, candidate: Candidate, turns: Sequence[Turn]) -> bool:
        """True if a cell was not judged since its turns gave new outputs."""
        found = self.found.get((point, candidate), [])
        return not found or any(turn.outputs and turn.outputs not in _seen(found) for turn in turns)

    def awaited(
        self, point: Point, candidate: Candidate, open_: Mapping[tuple[Point, Candidate], OpenCell]
    ) -> Candidate | None:
        """Eager if it has turns at `point` and is to be judged first, as `candidate` is held against its outputs."""
        eager = self.original
        if eager is None or eager == candidate or (point, eager) in self.found:
            return None
        cell = open_.get((point, eager))
        return eager if cell is not None and cell.turns else None

    def judge(self, point: Point, candidate: Candidate, ask: Callable[..., dict[str, Any]]) -> None:
        """Have a worker compare all distinct outputs that it holds with their references; `ask` carries the request
        and raises WorkerError.
        """
        if self.workload.fresh_process and not self.workload.cases(point, self.prepared.source):
            self.found[point, candidate] = [NOTHING]  # its process may be gone, with nothing to ask it for
            return
        tolerance = tolerance_of(candidate.precision, tf32=self.run.options.tf32)
        units, missing = self.prepared.units(point, candidate)
        request = {"units": units, "atol": tolerance.atol, "rtol": tolerance.rtol}
        request |= {"original": self._of_original(point, candidate)}
        reply = ask(request=request | dict(self.workload.judged(point, candidate)))
        parity: dict[str, Any] = {}
        if units and self.prepared.computes(candidate):
            is_unjudged: dict[str, Any] = {"verdict": "unjudged", "reason": missing}
            parity = is_unjudged if missing else self.workload.parity(reply, tolerance)
            cases = parity.get("cases", {})
            for name in cases.keys() & reply.get("identities", {}).keys():
                cases[name]["identities"] = reply["identities"][name]
            parity = as_of_candidate(parity, candidate)
        self.found.setdefault((point, candidate), []).append(Judgement(reply, parity))

    def _of_original(self, point: Point, candidate: Candidate) -> Identities:
        """Identities of eager's own outputs at `point`, which decide who is bit-identical to it; {} if its stored
        outputs must do, as it is not there or was not judged.
        """
        original = self.original
        if original is None or candidate.is_original or candidate.precision != original.precision:
            return {}
        record = self.run.record(point, original)
        if record is not None:
            return _identities(record.parity)
        found = self.found.get((point, original))
        return _identities(found[-1].parity) if found else {}

    def peaks(self, candidate: Candidate) -> Iterator[tuple[Point, int]]:
        """The most that a candidate's process held in one call, in bytes, by point."""
        for (point, one), judgements in self.found.items():
            for judgement in judgements if one == candidate else ():
                if peak := judgement.peaks.get("peak_process_bytes"):
                    yield point, peak

    def worst(self, point: Point, candidate: Candidate, turns: Sequence[Turn]) -> Judgement:
        """The worst that outputs of a cell were judged as, with the number of its `turns` that gave others."""
        found, order = self.found[point, candidate], ("", *OUTCOMES)
        worst = max(found, key=lambda one: order.index(one.verdict))
        seen = _seen(found)
        lost = sum(bool(turn.outputs) and turn.outputs not in seen for turn in turns) if seen else 0
        return replace(worst, parity=with_lost_turns(worst.parity, lost))


def _seen(found: Sequence[Judgement]) -> frozenset[str]:
    return frozenset[str]().union(*(one.seen for one in found))


def _identities(parity: Mapping[str, Any]) -> Identities:
    cases = parity.get("cases", {})
    return {name: case["identities"] for name, case in cases.items() if case.get("identities")}
