"""What a runtime must keep to be taken: service levels, memory, parity; and what is asked of the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.errors import UserError
from bench.spec import nearest, parse_size

OBJECTIVES = ("latency", "throughput", "cost")
#: Verdicts that can be asked for, best first; what is broken or unjudged never qualifies.
PARITIES = ("exact", "equivalent", "lossy")
RANKS = (50, 90, 95, 99)
_UNITS_NS = {"us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
LONGEST_SECONDS = 86_400.0


@dataclass(frozen=True)
class Slo:
    """A service level: so many percent of the calls take at most so long."""

    rank: int
    """One of `RANKS`."""
    limit_ns: float

    def __str__(self) -> str:
        return f"p{self.rank} {duration(self.limit_ns)}"


@dataclass(frozen=True)
class Constraints:
    """Everything that a choice is made under."""

    objective: str = "latency"
    slos: tuple[Slo, ...] = ()
    max_memory_bytes: int | None = None
    min_parity: str = "equivalent"
    requests_per_restart: int | None = None
    prices: tuple[float, ...] = ()
    """US dollars an hour, of each run; empty where none is given."""


def parse_slo(text: str, option: str = "--slo") -> tuple[Slo, ...]:
    """`"p95=20ms"`, or several with commas; raises UserError for anything else."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*p([0-9]{1,2})\s*(?:=|<=|≤)\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|µs|ms|s)\s*", part)
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


def parse_constraints(
    *,
    runs: int,
    objective: str = "latency",
    slo: str | None = None,
    max_memory: str | int | None = None,
    min_parity: str = "equivalent",
    requests_per_restart: int | None = None,
    price: str | float | None = None,
) -> Constraints:
    """The user's constraints for a choice among so many `runs`; raises UserError naming the option at fault."""
    for value, known, option in ((objective, OBJECTIVES, "--objective"), (min_parity, PARITIES, "--min-parity")):
        if value not in known:
            raise UserError(f"{option} {value[:40]!r} is not known{nearest(value, known)}; use {', '.join(known)}")
    memory = None if max_memory is None else parse_size(max_memory, "--max-memory")
    if memory is not None and memory < 1:
        raise UserError(f"--max-memory {str(max_memory)[:40]!r} is no memory at all; write e.g. --max-memory 2GB")
    if requests_per_restart is not None and requests_per_restart < 1:
        raise UserError(f"--requests-per-restart {requests_per_restart} is below 1; write e.g. 100000")
    prices = _prices(price, runs)
    if objective == "cost" and not prices:
        raise UserError("--objective cost needs what the machine costs; add --price USD_PER_HOUR, e.g. --price 0.40")
    slos = parse_slo(slo) if slo is not None else ()
    return Constraints(objective, slos, memory, min_parity, requests_per_restart, prices)


def _prices(price: str | float | None, runs: int) -> tuple[float, ...]:
    if price is None:
        return ()
    words = [part.strip() for part in str(price).split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", word) and float(word) > 0 for word in words):
        raise UserError(f"--price {str(price)[:40]!r} is no price; write US dollars an hour, e.g. --price 0.40")
    if len(words) not in (1, runs):
        runs_given = f"{runs} run{'' if runs == 1 else 's'}"
        raise UserError(f"--price names {len(words)} prices for {runs_given}; give one, or one a run in their order")
    return tuple(float(word) for word in words) * (runs if len(words) == 1 else 1)


def duration(ns: float) -> str:
    """`20 ms`, `350 µs`, `1.5 s`."""
    value, unit = (ns / 1e9, "s") if ns >= 1e9 else (ns / 1e6, "ms") if ns >= 1e6 else (ns / 1e3, "µs")
    return f"{value:.4g} {unit}"
