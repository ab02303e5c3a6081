"""A queue before one server: who is taken together, and when. No torch; clock, waiting and calls are injected.

Requests arrive whether or not the server is free, and their latency counts from the moment that they were due, so that
a stall delays every request behind it (no "coordinated omission": G. Tene, How NOT to Measure Latency, 2013).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from bench.errors import UserError
from bench.spec import Shape
from bench.traffic import duration

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
    """When each request was due after the slice's start; below 0 if it waited already when the slice began."""
    waits_ns: list[int] = field(default_factory=list)
    """From due until the call that served it began."""
    latency_ns: list[int] = field(default_factory=list)
    """From due until that call was done."""

    def calls(self) -> list[tuple[int, int, int]]:
        """Start and end of each call, ns after the slice's start, and the requests that it served, in order."""
        served = zip(self.due_ns, self.waits_ns, self.latency_ns, strict=False)
        spans = [(due + wait, due + latency) for due, wait, latency in served]
        return [(*span, len([*requests])) for span, requests in groupby(spans)]

    def ended_ns(self) -> int:
        """When the slice ended: all of its requests were due, and no call went on."""
        last = self.due_ns[len(self.latency_ns) - 1] + self.latency_ns[-1] if self.latency_ns else 0
        return max(last, self.due_ns[-1])

    def largest_queue(self) -> int:
        """Requests that waited at once, at most: just before a call takes them, or when the slice was ended."""
        starts = [due + wait for due, wait in zip(self.due_ns, self.waits_ns, strict=False)]
        queued = [bisect_right(self.due_ns, start) - taken for taken, start in enumerate(starts)]
        return max([*queued, len(self.due_ns) - len(starts)])


def next_slice(
    due_ns: Sequence[int], before: Sequence[Slice], slices: int, beside_ns: int
) -> tuple[list[int], int, int]:
    """The slice behind those `before`, if the requests due at `due_ns` are served in so many `slices`: when its own are
    due after its start, the place of the first, and `most_ns` of `serve`.

    Time stands still between two slices, and each begins with the queue that the one before has left. So all together
    are one queue, which was empty once. The last goes on for `beside_ns` and as long again as its requests arrived.
    """
    begins, ends = (len(due_ns) * count // slices for count in (len(before), len(before) + 1))
    place, elapsed_ns = sum(len(one.latency_ns) for one in before), sum(one.ended_ns() for one in before)
    most_ns = due_ns[ends - 1] - elapsed_ns
    if ends == len(due_ns):
        most_ns = max(most_ns, 0) + due_ns[-1] - due_ns[begins] + beside_ns
    return [ns - elapsed_ns for ns in due_ns[place:ends]], place, most_ns


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
    later than `most_ns` after the start, nor is a call waited for beyond; what is left may be served by a later slice.
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
            wait_until(started_ns + min(until_ns, most_ns + 1))
            continue
        begun_ns = clock() - started_ns
        call(head, count)
        done_ns = clock() - started_ns
        for due in due_ns[head : head + count]:
            found.waits_ns.append(begun_ns - due)
            found.latency_ns.append(done_ns - due)
        head += count
    return found
