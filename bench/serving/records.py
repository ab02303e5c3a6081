"""Requests that were served at a rate: their records, and what is computed from them when asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from bench import statistics
from bench.machine import conditions
from bench.records import CellRecord, exit_code_of
from bench.run import search
from bench.run.search import Found, Trial
from bench.serving.plan import LoadPlan, traffic_to_json
from bench.spec import Candidate, Grid, TimingPlan
from bench.traffic import Slo, Traffic

SCHEMA = 1
#: What became of a service level.
KEPT, MISSED, UNJUDGED = "kept", "missed", "unjudged"
#: No sound contestant keeps the service levels at the rate that was asked for.
NOTHING_KEEPS_EXIT_CODE = 5
#: Below this share of the time in calls nobody waits for a call before, so a lower rate is no remedy.
IDLE_SHARE = 0.05


@dataclass(frozen=True)
class LoadRecord(CellRecord):
    """What became of one contestant at one rate. By slice of the schedule, and there by request in order of arrival."""

    model: str
    backend: str
    variant: str
    precision: str
    device: str
    step: int
    """0 for the rate that was asked for, from 1 on those of the search."""
    rate: float
    """Requests a second."""
    requests: int
    status: str
    reason: str = ""
    copy: int = 1
    weights: str = ""
    due_ns: list[list[int]] = field(default_factory=list)
    """When each request was due after its slice's start."""
    waits_ns: list[list[int]] = field(default_factory=list)
    """From due until the call that served it began; those that were not served are missing at the end."""
    rounds_ns: list[list[int]] = field(default_factory=list)
    """Latencies: from due until that call was done."""
    first_calls_ns: int | None = None
    """Of the first call of each shape that was warmed up, compilation included."""
    shapes: int = 0
    """Shapes that a call can have."""
    warmed: int = 0
    """Of them, those that were called before anything was served."""
    export_seconds: float | None = None
    load_seconds: float | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    turns: str = "interleaved"
    repeat: str = ""
    judged: bool = True
    """False for a backend that does not compute the model (`null`)."""
    memory: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    environment: str = ""

    @cached_property
    def latencies_ns(self) -> list[int]:
        """Of all requests that were served."""
        return [ns for round_ in self.rounds_ns for ns in round_]

    @property
    def unserved(self) -> int:
        """Requests that were still queued when their slice was ended."""
        return self.requests - len(self.latencies_ns)

    def _calls(self) -> Iterator[list[tuple[int, int]]]:
        """By slice: start and end of each call (ns after the slice's start), in order."""
        for due, waits, latencies in zip(self.due_ns, self.waits_ns, self.rounds_ns, strict=True):
            served = zip(due, waits, latencies, strict=False)
            spans = [(start + wait, start + latency) for start, wait, latency in served]
            yield [span for span, _ in groupby(spans)]

    @cached_property
    def calls_ns(self) -> list[int]:
        """Duration of each call."""
        return [end - start for calls in self._calls() for start, end in calls]

    @property
    def elapsed_ns(self) -> int:
        """From each slice's start to the end of its last call, all together."""
        return sum(calls[-1][1] for calls in self._calls())

    @property
    def busy_share(self) -> float:
        """Time in calls over all time (the utilisation)."""
        return sum(self.calls_ns) / self.elapsed_ns

    @property
    def served_rate(self) -> float:
        """Requests a second that were served."""
        return len(self.latencies_ns) / self.elapsed_ns * 1e9

    @property
    def requests_per_call(self) -> float:
        """How many were joined into one call, on average."""
        return len(self.latencies_ns) / len(self.calls_ns)

    @cached_property
    def largest_queue(self) -> int:
        """Requests that had arrived and were in no call yet, at most."""
        return max(_largest_queue(due, waits) for due, waits in zip(self.due_ns, self.waits_ns, strict=True))

    @property
    def keeps_up(self) -> bool:
        """False where requests were left over, or their calls took longer than they took to arrive.

        A finite slice ends even above capacity; the queue of an endless one would grow without bound there.
        """
        return self.unserved == 0 and sum(self.calls_ns) <= sum(due[-1] for due in self.due_ns)

    def percentile(self, rank: int) -> float | None:
        """Nanoseconds of the `rank`-th percentile of latencies; None where there are too few for it (rule 8), or where
        the requests that were not served would have been the slowest."""
        return None if self.unserved else statistics.percentile(self.latencies_ns, rank)

    def outcome(self, slo: Slo) -> str:
        """`KEPT`, `MISSED` or `UNJUDGED`: kept where the percentile of all requests is within the limit and the
        contestant keeps up."""
        if not self.keeps_up:
            return MISSED
        value = self.percentile(slo.rank)
        if value is None:
            return UNJUDGED
        return KEPT if value <= slo.limit_ns else MISSED

    def outcome_of_all(self, slos: Sequence[Slo]) -> str:
        """Worst of `outcome`, a miss before what cannot be judged."""
        outcomes = {self.outcome(slo) for slo in slos}
        return MISSED if MISSED in outcomes else UNJUDGED if UNJUDGED in outcomes else KEPT


def _largest_queue(due_ns: Sequence[int], waits_ns: Sequence[int]) -> int:
    """Requests of a slice that waited at once, at most: just before a call takes them, or when the slice was ended."""
    starts = [due + wait for due, wait in zip(due_ns, waits_ns, strict=False)]
    ends = [place for place, (one, next_) in enumerate(pairwise([*starts, -1])) if one != next_]
    largest, taken, arrived = 0, 0, 0
    for end in ends:
        while arrived < len(due_ns) and due_ns[arrived] <= starts[end]:
            arrived += 1
        largest, taken = max(largest, arrived - taken), end + 1
    return max(largest, len(due_ns) - len(starts))


@dataclass
class LoadRun:
    """All records of one call of `bench load`, with the traffic and the machine's fingerprint."""

    grid: Grid
    """Its shapes are those of the traffic."""
    plan: TimingPlan
    load: LoadPlan
    traffic: Traffic
    fingerprint: dict[str, Any]
    origin: str
    checkpoint: str
    command: str
    started: str
    records: list[LoadRecord] = field(default_factory=list)
    path: Path | None = None
    is_complete: bool = False
    parent_cpu_share: float | None = None

    def record(self, contestant: Candidate, step: int = 0) -> LoadRecord | None:
        """What became of a contestant at the rate that was asked for, or at a step of its search; None without."""
        found = (one for one in self.records if one.contestant == contestant and one.step == step)
        return next(found, None)

    def trials(self, contestant: Candidate) -> list[Trial]:
        """Rates at which the service levels could be judged.

        A miss while other work disturbed the machine is no evidence the first time: the rate is tried once more.
        """
        found, excused = [], set[float]()
        for one in self.records:
            if one.contestant != contestant or one.status != "ok":
                continue
            outcome = one.outcome_of_all(self.load.slos)
            if outcome == MISSED and self.taint(one) and one.rate not in excused:
                excused.add(one.rate)
            elif outcome != UNJUDGED:
                found.append(Trial(one.rate, outcome == KEPT, self._is_hopeless(one)))
        return found

    def _is_hopeless(self, record: LoadRecord) -> bool:
        """True where a miss is not the queue's: hardly anybody waited, or single requests' calls alone are too long."""
        if record.busy_share < IDLE_SHARE:
            return True
        if self.load.rule.is_dynamic:
            return False
        alone = ((slo, statistics.percentile(record.calls_ns, slo.rank)) for slo in self.load.slos)
        return any(value is not None and value > slo.limit_ns for slo, value in alone)

    def is_sound(self, contestant: Candidate) -> bool:
        """True where all that was measured of a contestant computed the model; a broken one keeps no service level."""
        records = [one for one in self.records if one.contestant == contestant]
        return bool(records) and all(one.status == "ok" and (one.is_comparable or not one.judged) for one in records)

    def largest_rate(self, contestant: Candidate) -> Found | None:
        """The largest rate that keeps the service levels; None without a search, or where the model is not the same."""
        if self.load.search_requests is None or not self.is_sound(contestant):
            return None
        trials = self.trials(contestant)
        return search.bracket(trials) if trials else None

    def next_rate(self, contestant: Candidate) -> float | None:
        """The rate that a contestant's search tries next; None where it has ended."""
        if self.load.search_requests is None or not self.is_sound(contestant):
            return None
        return search.next_rate(self.trials(contestant), self.load.rate, self.load.search_requests)

    def taint(self, record: LoadRecord) -> list[str]:
        """What disturbed the machine while this was served, one line each."""
        return conditions.taint(record.conditions) if record.conditions else []

    @property
    def exit_code(self) -> int:
        """3 something is broken; 1 something failed, or nothing was measured; 5 service levels were given and nobody
        keeps them at the rate that was asked for; else 0."""
        code = exit_code_of(self.records)
        asked = [record for who in self.grid.contestants if (record := self.record(who)) is not None]
        is_kept = any(
            self.is_sound(record.contestant) and record.outcome_of_all(self.load.slos) == KEPT
            for record in asked
            if record.status == "ok"
        )
        return NOTHING_KEEPS_EXIT_CODE if code == 0 and self.load.slos and not is_kept else code

    def rows(self) -> list[dict[str, Any]]:
        """One dict a record; None where it has no such figure."""
        return [_row(self, record) for record in self.records]

    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        return {
            "kind": "load",
            "schema": SCHEMA,
            "grid": self.grid.to_json(),
            "plan": asdict(self.plan),
            "load": self.load.to_json(),
            "traffic": traffic_to_json(self.traffic),
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "checkpoint": self.checkpoint,
            "command": self.command,
            "started": self.started,
        }


def _row(run: LoadRun, record: LoadRecord) -> dict[str, Any]:
    names = (
        "model",
        "backend",
        "variant",
        "precision",
        "copy",
        "device",
        "step",
        "rate",
        "requests",
        "status",
        "reason",
    )
    row: dict[str, Any] = {name: getattr(record, name) for name in names}
    row |= {"parity": record.verdict or None, "max_abs_error": record.parity.get("max_abs_error")}
    figures = (
        "p50_ms", "p95_ms", "p99_ms", "call_ms", "busy_share", "largest_queue", "requests_per_call", "served_rate",
        "unserved", "keeps_up", "slo", "tainted",
    )  # fmt: skip
    row |= dict.fromkeys(figures)
    if record.status != "ok":
        return row
    for rank in (50, 95, 99):
        value = record.percentile(rank)
        row[f"p{rank}_ms"] = None if value is None else value / 1e6
    row |= {name: getattr(record, name) for name in figures[4:10]}
    row |= {"call_ms": statistics.median(record.calls_ns) / 1e6, "tainted": bool(run.taint(record))}
    row["slo"] = record.outcome_of_all(run.load.slos) if run.load.slos else None
    return row
