"""How outputs are judged while a run goes on: each worker compares its own with the stored references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.parity.verdict import OUTCOMES, of_original, tolerance_of
from bench.run.record import Point, Run

if TYPE_CHECKING:
    from bench.run.preparation import Preparation
    from bench.spec import Candidate

#: Different outputs of one cell that are judged, beside its first ones.
MOST_FURTHER = 2


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


class Judging:
    """What the cells of one run were judged as so far."""

    def __init__(self, run: Run, prepared: Preparation) -> None:
        self.run, self.prepared, self.workload = run, prepared, run.workload
        self.found: dict[tuple[Point, Candidate], dict[str, Judgement]] = {}
        """Of open cells, by the checksum of the outputs."""

    def is_new(self, point: Point, candidate: Candidate, outputs: str) -> bool:
        """True if outputs with this checksum are to be judged."""
        found = self.found.get((point, candidate), {})
        return not found or (outputs != "" and outputs not in found and len(found) <= MOST_FURTHER)

    def judge(self, point: Point, candidate: Candidate, outputs: str, ask: Callable[..., dict[str, Any]]) -> None:
        """Have a worker compare its outputs with their references; `ask` carries the request and raises WorkerError."""
        computes, cases = self.prepared.computes(candidate), self.workload.cases(point, self.prepared.source)
        tolerance = tolerance_of(candidate.precision, tf32=self.run.options.tf32)
        if self.workload.fresh_process and not cases:  # its process may be gone, and there is nothing to ask it for
            self.found[point, candidate] = {outputs: Judgement({}, {})}
            return
        units, missing = dict[str, Any](), ""
        for name, inputs in cases.items():
            units[name] = inputs.request()
            pair = self.prepared.references.pair(candidate.precision, name) if computes else ""
            if isinstance(pair, str):
                missing = missing or pair
            else:
                units[name] |= {"reference": str(pair[0].path), "eager_error": str(pair[1].path)}
        request = {"units": units, "atol": tolerance.atol, "rtol": tolerance.rtol}
        reply = ask(request=request | dict(self.workload.judged(point, candidate)))
        parity: dict[str, Any] = {}
        if computes and units:
            is_unjudged = {"verdict": "unjudged", "reason": missing}
            parity = is_unjudged if missing else self.workload.parity(reply, tolerance)
            parity = of_original(parity) if candidate.is_original else parity
        self.found.setdefault((point, candidate), {})[outputs] = Judgement(reply, parity)

    def peaks(self, candidate: Candidate) -> Iterator[tuple[Point, int]]:
        """The most that a candidate's process held in one call, in bytes, by point."""
        for (point, one), judgements in self.found.items():
            for judgement in judgements.values() if one == candidate else ():
                if peak := judgement.reply.get("memory", {}).get("peak_process_bytes"):
                    yield point, peak

    def worst(self, point: Point, candidate: Candidate) -> Judgement:
        """The worst that outputs of a cell were judged as."""
        order = ("", *OUTCOMES)
        return max(self.found[point, candidate].values(), key=lambda one: order.index(one.verdict))
