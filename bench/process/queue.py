"""A queue before one server: who is taken together, and when. No torch; clock, waiting and calls are injected.

Requests arrive whether or not the server is free, and their latency counts from the moment that they were due, so that
a stall delays every request behind it (no "coordinated omission": G. Tene, How NOT to Measure Latency, 2013).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

from bench import statistics
from bench.errors import UserError
from bench.spec import Shape
from bench.traffic import Slo, duration

#: What became of a service level.
KEPT, MISSED, UNJUDGED = "kept", "missed", "unjudged"
#: Below this share of the time in calls hardly any request waits for a call before, so a lower rate is no remedy.
IDLE_SHARE = 0.05
MOST_DELAY_NS, MOST_ROWS = 10_000_000_000, 4096
_UNITS_NS = {"us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class Batching:
    """How queued requests are joined into one call."""

    most_rows: int | None = None
    """Sequences of one call at most; None serves each request by itself."""
    most_delay_ns: int = 0
    """How long after its arrival the first of the queue may be kept waiting for more to join."""

    def __str__(self) -> str:
        if self.most_rows is None:
            return "each served by itself"
        waits = duration(self.most_delay_ns) if self.most_delay_ns else "0 ms"
        return f"joined up to batch {self.most_rows}, the first of them waiting at most {waits} for more"

    @property
    def is_dynamic(self) -> bool:
        """True where requests are joined."""
        return self.most_rows is not None

    def padded_rows(self, rows: int) -> int:
        """Rows of a call on a runtime of static shapes: the next power of two within `most_rows`, more as they are."""
        if self.most_rows is None or rows >= self.most_rows:
            return rows
        return min(1 << (rows - 1).bit_length(), self.most_rows)


def parse_batching(text: str, option: str = "--batching") -> Batching:
    """`none`, or `dynamic:MAX_BATCH:MAX_DELAY` as in "dynamic:8:5ms"; raises UserError for anything else."""
    if text == "none":
        return Batching()
    show = f"write none, or dynamic:MAX_BATCH:MAX_DELAY, e.g. {option} dynamic:8:5ms"
    found = re.fullmatch(r"dynamic:([0-9]{1,9}):([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|µs|ms|s)", text)
    if not found:
        raise UserError(f"{option} {text[:40]!r} is not a batching rule; {show}")
    rows, delay_ns = int(found[1]), round(float(found[2]) * _UNITS_NS[found[3]])
    if not 1 <= rows <= MOST_ROWS:
        raise UserError(f"MAX_BATCH {rows} of {option} {text!r} is not within 1 and {MOST_ROWS}; {show}")
    if delay_ns > MOST_DELAY_NS:
        raise UserError(f"MAX_DELAY of {option} {text!r} is above 10 s; {show}")
    return Batching(rows, delay_ns)


def called_shapes(
    shapes: Collection[Shape], padded_to: Mapping[int, int], batching: Batching, is_static: bool
) -> list[list[int]]:
    """Every [rows, length] that a call can have, largest first; a longest length is padded as `padded_to` says."""
    found = {Shape(shape.batch, padded_to[shape.length]) for shape in shapes}
    if batching.most_rows is not None:
        counts = range(min(shape.batch for shape in shapes), batching.most_rows + 1)
        joined = {batching.padded_rows(rows) for rows in counts} if is_static else set(counts)
        found = {shape for shape in found if shape.batch > batching.most_rows}
        found |= {Shape(rows, length) for rows in joined for length in padded_to.values()}
    ordered = sorted(found, key=lambda shape: (-shape.batch * shape.length, shape))
    return [[shape.batch, shape.length] for shape in ordered]


@dataclass
class Slice:
    """What became of one slice, by request in the order of arrival; requests that were not served lack at the end."""

    due_ns: Sequence[int]
    """When each request was due after the slice's start."""
    waits_ns: list[int] = field(default_factory=list)
    """From due until the call that served it began."""
    latency_ns: list[int] = field(default_factory=list)
    """From due until that call was done."""

    def calls(self) -> list[tuple[int, int]]:
        """Start and end of each call, ns after the slice's start, in order."""
        served = zip(self.due_ns, self.waits_ns, self.latency_ns, strict=False)
        spans = [(due + wait, due + latency) for due, wait, latency in served]
        return [span for span, _ in groupby(spans)]

    def largest_queue(self) -> int:
        """Requests that waited at once, at most: just before a call takes them, or when the slice was ended."""
        starts = [due + wait for due, wait in zip(self.due_ns, self.waits_ns, strict=False)]
        queued = [bisect_right(self.due_ns, start) - taken for taken, start in enumerate(starts)]
        return max([*queued, len(self.due_ns) - len(starts)])


def next_step(
    due_ns: Sequence[int], rows: Sequence[int], head: int, now_ns: int, batching: Batching
) -> tuple[int, int]:
    """How many requests a free server takes together at `now_ns` from `head` on, and if 0, until when it waits.

    Arrived ones are joined in order as long as their rows fit. A call begins when it is full, when the next does not
    fit, or when the first one's delay is over. One of more than `most_rows` is served alone.
    """
    if due_ns[head] > now_ns:
        return 0, due_ns[head]
    if batching.most_rows is None:
        return 1, 0
    joined, end = rows[head], head + 1
    while end < len(due_ns) and due_ns[end] <= now_ns and joined + rows[end] <= batching.most_rows:
        joined, end = joined + rows[end], end + 1
    does_not_fit = end < len(due_ns) and due_ns[end] <= now_ns
    deadline_ns = due_ns[head] + batching.most_delay_ns
    if joined >= batching.most_rows or does_not_fit or now_ns >= deadline_ns:
        return end - head, 0
    return 0, min([deadline_ns, *due_ns[end : end + 1]])


def serve(
    due_ns: Sequence[int],
    rows: Sequence[int],
    batching: Batching,
    call: Callable[[int, int], None],
    clock: Callable[[], int],
    wait_until: Callable[[int], None],
    most_ns: int,
) -> Slice:
    """Serve requests that are due at `due_ns` after the start, each with its `rows`, one call at a time.

    `call(first, count)` serves `count` requests together; `wait_until` takes a reading of `clock`. No call begins
    later than `most_ns` after the start.
    """
    found = Slice(due_ns)
    started_ns = clock()
    head = 0
    while head < len(due_ns):
        now_ns = clock() - started_ns
        if now_ns > most_ns:
            break
        count, until_ns = next_step(due_ns, rows, head, now_ns, batching)
        if not count:
            wait_until(started_ns + until_ns)
            continue
        begun_ns = clock() - started_ns
        call(head, count)
        done_ns = clock() - started_ns
        for due in due_ns[head : head + count]:
            found.waits_ns.append(begun_ns - due)
            found.latency_ns.append(done_ns - due)
        head += count
    return found


@dataclass(frozen=True)
class Slices:
    """All slices of one cell together."""

    slices: Sequence[Slice]
    requests: int
    """That were to be served."""

    @cached_property
    def latencies_ns(self) -> list[int]:
        """Of all requests that were served."""
        return [ns for one in self.slices for ns in one.latency_ns]

    @property
    def unserved(self) -> int:
        """Requests that were still queued when their slice was ended."""
        return self.requests - len(self.latencies_ns)

    @cached_property
    def calls_ns(self) -> list[int]:
        """Duration of each call."""
        return [end - start for one in self.slices for start, end in one.calls()]

    @cached_property
    def elapsed_ns(self) -> int:
        """From each slice's start to the end of its last call, all together."""
        return sum(calls[-1][1] for one in self.slices if (calls := one.calls()))

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
        return max(one.largest_queue() for one in self.slices)

    @property
    def keeps_up(self) -> bool:
        """False if requests were left over, or if their calls took longer than they took to arrive."""
        return self.unserved == 0 and sum(self.calls_ns) <= sum(one.due_ns[-1] for one in self.slices)

    def level(self, slo: Slo) -> str:
        """`KEPT`, `MISSED` or `UNJUDGED`: kept if they keep up and the percentile of all is within the limit."""
        if not self.keeps_up:
            return MISSED
        value = self.percentile(slo.rank)
        if value is None:
            return UNJUDGED
        return KEPT if value <= slo.limit_ns else MISSED

    def outcome(self, slos: Sequence[Slo]) -> str:
        """Worst of `level`, a miss before what cannot be judged."""
        outcomes = {self.level(slo) for slo in slos}
        return MISSED if MISSED in outcomes else UNJUDGED if UNJUDGED in outcomes else KEPT

    def is_hopeless(self, slos: Sequence[Slo], batching: Batching) -> bool:
        """True for a miss that is not the queue's: hardly any request waited, or single calls alone are too long."""
        if self.busy_share < IDLE_SHARE:
            return True
        if batching.is_dynamic:
            return False
        alone = ((slo, statistics.percentile(self.calls_ns, slo.rank)) for slo in slos)
        return any(value is not None and value > slo.limit_ns for slo, value in alone)

    def percentile(self, rank: int) -> float | None:
        """Nanoseconds of the `rank`-th percentile of latencies; None if there are too few for it (rule 8), or if the
        requests that were not served would have been the slowest."""
        return None if self.unserved else statistics.percentile(self.latencies_ns, rank)
