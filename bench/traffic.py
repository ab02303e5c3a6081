"""Traffic: how often requests of which shape come, from a file or assumed; service levels of latency."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.options import text
from bench.spec import LARGEST_SIZE, Shape

#: Columns that a file must have; `count` is the histogram's.
COLUMNS = ("batch", "length")
COUNT = "count"
RANKS = (50, 90, 95, 99)
_UNITS_NS = {"us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9}
LONGEST_SECONDS = 86_400.0
#: Batch, length and count of shapes.
Counts = tuple[tuple[int, int, float], ...]
SHOW = "write a header batch,length[,count] and a line a request or shape"


@dataclass(frozen=True)
class Traffic:
    """Requests by shape; one request is one call on a batch of sequences of one length (tokens)."""

    counts: Mapping[Shape, float]
    """How often each shape comes, in any unit; all above 0."""
    source: str
    """Where it is from, in one line."""
    is_given: bool = True
    """False where it was assumed, as no traffic was given."""
    path: str = ""
    """File that it was read from, if there is one."""

    @classmethod
    def of(cls, counts: Counts, source: str) -> Traffic:
        """Traffic as a run keeps it."""
        return cls({Shape(batch, length): count for batch, length, count in counts}, source)

    @property
    def kept(self) -> Counts:
        """Batch, length and count of every shape, as a run keeps them."""
        return tuple((shape.batch, shape.length, count) for shape, count in sorted(self.counts.items()))

    def shares(self) -> list[tuple[Shape, float]]:
        """Each shape with its share of the requests, in order of the shapes; the shares sum to 1."""
        total = math.fsum(self.counts.values())
        return [(shape, self.counts[shape] / total) for shape in sorted(self.counts)]

    def draw(self, source: random.Random, count: int) -> list[Shape]:
        """Shapes of `count` requests, drawn independently by their shares."""
        shares = self.shares()
        return source.choices([shape for shape, _ in shares], [share for _, share in shares], k=count)


def even(shapes: Iterable[Shape]) -> Traffic:
    """Traffic in which every shape comes as often as any other."""
    return Traffic(dict.fromkeys(shapes, 1.0), "every shape as often as any other", is_given=False)


def read_traffic(path: Path) -> Traffic:
    """Traffic from a log or histogram: CSV with a header, or JSON Lines, with batch, length and maybe count.

    Without counts each line is one request; other columns are ignored. Raises UserError for anything else.
    """
    named = f"traffic {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not text"
        raise UserError(f"{named} cannot be read ({cause}); give a CSV or JSON Lines file") from None
    counts: defaultdict[Shape, float] = defaultdict(float)
    for number, row in (_json_lines if text.lstrip().startswith("{") else _csv_rows)(text, named):
        where = f"line {number} of {named}"
        batch, length = (_size(row.get(name), name, where) for name in COLUMNS)
        counts[Shape(batch, length)] += _count(row.get(COUNT), where) if COUNT in row else 1.0
    if not counts:
        raise UserError(f"{named} has no requests; {SHOW}")
    kept = {shape: count for shape, count in counts.items() if count > 0}
    if not kept:
        raise UserError(f"all counts in {named} are 0; {SHOW}")
    try:
        total = math.fsum(kept.values())
    except OverflowError:
        raise UserError(f"the counts in {named} add up beyond all numbers; {SHOW}") from None
    shapes = len(kept)
    said = f"{path.name} ({total:,.10g} requests, {shapes:,} shape{'' if shapes == 1 else 's'})"
    return Traffic(kept, said, path=str(path))


def parse_traffic(value: Any, name: str) -> Any:
    """An option's value: Traffic of a caller of the API, or the name of a file. Raises UserError."""
    return value if isinstance(value, Traffic) else text(value, name)


def _csv_rows(text: str, named: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        reader.fieldnames = names = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        if missing := [name for name in COLUMNS if name not in names]:
            raise UserError(f"{named} has no column {missing[0]!r}; {SHOW}")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {named} is no CSV ({error}); {SHOW}") from None


def _json_lines(text: str, named: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f'line {number} of {named} is no JSON object; write {{"batch": 1, "length": 9}}')
        yield number, row


def _size(value: Any, name: str, where: str) -> int:
    try:
        size = int(str(value).strip())
    except ValueError:
        raise UserError(f"{name} {str(value)[:40]!r} in {where} is no whole number; write e.g. 8") from None
    if not 1 <= size <= LARGEST_SIZE:
        raise UserError(f"{name} {size} in {where} is not within 1 and {LARGEST_SIZE}; write e.g. 8")
    return size


def _count(value: Any, where: str) -> float:
    try:
        count = float(str(value).strip())
    except ValueError:
        count = math.nan
    if not 0 <= count < math.inf:
        raise UserError(f"count {str(value)[:40]!r} in {where} is no number from 0 on; write how often the shape came")
    return count


def arrivals(traffic: Traffic, rate: float, count: int, seed: int, draw: int) -> tuple[list[int], list[Shape]]:
    """When `count` requests are due (ns) by a Poisson process of `rate` (requests a second), and their shapes.

    Every candidate and rate gets the same shapes and the same exponential draws, which the rate only scales (common
    random numbers: Law, Simulation Modeling and Analysis, 5th ed., 11.2), and more requests begin as fewer do. Another
    `draw` is independent of it.
    """
    gaps, shapes = random.Random(f"arrivals {seed} {draw}"), random.Random(f"shapes {seed} {draw}")
    at, due = 0.0, []
    for _ in range(count):
        at += gaps.expovariate(1.0)
        due.append(round(at / rate * 1e9))
    return due, traffic.draw(shapes, count)


# Service levels.


@dataclass(frozen=True)
class Slo:
    """A service level: so many percent of the calls take at most so long."""

    rank: int
    """One of `RANKS`."""
    limit_ns: float

    @property
    def share(self) -> float:
        """Share of the calls that may take longer."""
        return (100 - self.rank) / 100

    def __str__(self) -> str:
        return f"p{self.rank} {duration(self.limit_ns)}"


def parse_slo(text: str, option: str = "--slo") -> tuple[Slo, ...]:
    """`"p95=20ms"`, or several with commas; raises UserError for anything else."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*p([0-9]{1,2})\s*(?:=|<=|≤)\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|µs|ms|s|m)\s*", part)
        if not match:
            raise UserError(f"{option} {part.strip()[:40]!r} is no service level; write e.g. {option} p95=20ms")
        rank, limit_ns = int(match[1]), float(match[2]) * _UNITS_NS[match[3]]
        if rank not in RANKS:
            known = ", ".join(f"p{known}" for known in RANKS)
            raise UserError(f"{option} p{rank} is none of {known}; write e.g. {option} p95=20ms")
        if not 0 < limit_ns <= LONGEST_SECONDS * 1e9:
            raise UserError(f"{option} {part.strip()} is not above 0 and at most a day; write e.g. {option} p95=20ms")
        found.append(Slo(rank, limit_ns))
    return tuple(dict.fromkeys(found))


def duration(ns: float) -> str:
    """`20 ms`, `350 µs`, `1.5 s`."""
    value, unit = (ns / 1e9, "s") if ns >= 1e9 else (ns / 1e6, "ms") if ns >= 1e6 else (ns / 1e3, "µs")
    return f"{value:.4g} {unit}"
