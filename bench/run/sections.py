"""Sections that the reports of several workloads have: who is fastest, what ran, compilation, memory, warnings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench import statistics
from bench.columns import DASH, Column, Section, Table, factor, milliseconds, percent
from bench.run import warnings
from bench.run.columns import least_top1, loss_cell
from bench.run.leads import iter_points as iter_points
from bench.run.leads import winner as winner
from bench.run.record import Record, Run, is_unsteady

MIB = 2**20
#: Points that a line names one by one.
MOST_PLACES = 8
#: What kinds of time are called in tables, if not by their own names.
KINDS = {"naive": "naive (wrong)"}


def fastest_at(run: Run, point: Any, records: Sequence[Record]) -> Section:
    """The winner of one point: who is fastest, by how much, or with whom it ties."""
    if (found := winner(run, records)) is None:
        return Section("")
    if found.why_undecided:
        return Section("", (f"undecided: {found.why_undecided}",), style="yellow", point=point)
    baseline, ratio = run.baseline_candidate, run.ratio(found.record)
    line = f"fastest: {run.name(found.record.candidate)}"
    is_told_apart = baseline not in [one.candidate for one in (found.record, *found.ties)]
    if is_told_apart and ratio is not None and not is_unsteady(ratio):
        line += f", {ratio.value:.2f}× {baseline.label}"
    if found.ties:
        line += f" (tie with {', '.join(run.name(record.candidate) for record in found.ties)})"
    return Section("", (line,), style="green", point=point)


def kinds_of_time(run: Run, point: Any, records: Sequence[Record], kinds: Sequence[str]) -> Section:
    """Beside the headline's: device, enqueue, pipelined and naive times, if a cell has them."""
    found = [kind for kind in kinds if any(record.rounds_ns(kind) for record in records)]
    if len(found) < 2:
        return Section("")
    has_host_share = any(record.host_share is not None for record in records)
    titles = ("backend", *(KINDS.get(kind, kind) for kind in found), *(["host share"] if has_host_share else []))
    rows = []
    for record in records:
        cells = [DASH if (ns := record.median_ns(kind)) is None else milliseconds(ns) for kind in found]
        cells += [percent(record.host_share, digits=0)] if has_host_share else []
        rows.append((run.name(record.candidate), *cells))
    return Section("kinds of time, ms", table=Table(titles, tuple(rows)), point=point)


def of_columns(run: Run, title: str, point: Any, records: Sequence[Record], columns: Sequence[Column]) -> Section:
    """A table of its own for some figures of the measured records of one point."""
    measured = [record for record in records if record.status == "ok"]
    shown = [
        one for one in columns if not one.is_optional or any(one.value(run, each) is not None for each in measured)
    ]
    rows = tuple((run.name(one.candidate), *(column.text(run, one) for column in shown)) for one in measured)
    titles, is_left = (column.title for column in shown), (column.is_left for column in shown)
    styles = tuple(("", *(column.style(run, one) if column.style else "" for column in shown)) for one in measured)
    return Section(title, table=Table(("backend", *titles), rows, (True, *is_left), styles), point=point)


def largest_with_memory(run: Run) -> list[Record]:
    """Each candidate's record at the last point that it was measured at, if memory was noted."""
    found: dict[Any, Record] = {}
    for record in run.records:
        is_better = record.status == "ok" or record.candidate not in found
        if record.memory.get("loaded") and record.is_judged and is_better:
            found[record.candidate] = record
    return sorted(found.values(), key=lambda record: run.candidates.index(record.candidate))


def memory(run: Run) -> Section:
    """Per candidate: what it held once loaded, and at the peak of one call at its last point."""
    rows = []
    for record in largest_with_memory(run):
        loaded = record.memory["loaded"]
        held = [loaded.get(name) for name in ("parameters_bytes", "allocated_bytes", "reserved_bytes")]
        held += [run.process_bytes(record), run.peak_bytes(record)]
        cells = [DASH if one is None else f"{one / MIB:,.0f}" for one in held]
        rows.append((run.name(record.candidate), *cells, str(record.point)))
    titles = ("backend", "parameters", "allocated", "reserved", "process", "peak of a call", "at")
    return Section("Memory, MiB", table=Table(titles, tuple(rows)))


def common(run: Run) -> Iterable[Section]:
    """What every report ends with."""
    yield losses(run)
    yield Section("What ran", items=what_ran(run))
    yield Section("Compilation", items=compilation(run))
    yield Section("Not measured", items=not_measured(run))
    yield Section("Warnings", items=all_warnings(run))


def losses(run: Run) -> Section:
    """Per candidate below fp32: the most that its precision loses, where, and a language model's top-1 agreement."""
    found: dict[str, list[Record]] = {}
    for record in run.records:
        if record.candidate.precision != "fp32" and record.parity.get("loss") is not None:
            found.setdefault(run.name(record.candidate), []).append(record)
    rows = []
    for name, records in found.items():
        worst = max(records, key=lambda record: float(record.parity["loss"]))
        agreed = [share for record in records if (share := least_top1(record)) is not None]
        top1 = percent(min(agreed), digits=2) if agreed else DASH
        rows.append((name, loss_cell(worst.parity["loss"]), top1, worst.verdict, str(worst.point)))
    titles = ("backend", "RMSE over RMS", "top-1 kept", "parity", "at")
    return Section("What lower precisions lose", table=Table(titles, tuple(rows), (True, False, False, True, True)))


def not_measured(run: Run) -> list[str]:
    """Reasons of the cells that were not measured, grouped."""
    return grouped(
        run,
        [
            (record, f"{record.status}: {record.reason}")
            for record in run.records
            if record.status != "ok" and not run.workload.is_left_out(record)
        ],
    )


def all_warnings(run: Run) -> list[str]:
    """Warnings on the machine, then on records, grouped."""
    found = [(record, line) for record in run.records for line in warnings.of_record(run, record)]
    return [*warnings.of_machine(run), *grouped(run, found)]


def what_ran(run: Run) -> list[str]:
    """What really ran: providers, copies, graphs, attention kernels; one line a kind."""
    return grouped(run, [(record, line) for record in run.records if (line := _engaged(record.facts))])


def _engaged(facts: Mapping[str, Any]) -> str:
    parts = [f"{nodes} nodes on {provider}" for provider, nodes in (facts.get("nodes_per_provider") or {}).items()]
    if facts.get("copies_inserted") is not None:
        parts.append(f"{facts['copies_inserted']} copies between devices")
    if on_cpu := facts.get("operators_on_cpu"):
        parts.append("on the CPU: " + ", ".join(f"{name} × {count}" for name, count in on_cpu.items()))
    if "graphs" in facts:
        graphs = f"{facts['graphs']} graph" + ("" if facts["graphs"] == 1 else "s")
        parts.append(f"{graphs}, {facts.get('graph_breaks', 0)} breaks")
        parts.append(f"{facts.get('recompiles_while_timing', 0)} recompiles while timing")
    if products := facts.get("products"):
        parts.append("products: " + ", ".join(f"{name} × {count}" for name, count in products.items()))
    if "attention_kernels" in facts:
        kernels = (f"{name.removeprefix('_')} × {count}" for name, count in facts["attention_kernels"].items())
        parts.append(f"attention: {', '.join(kernels) or 'no kernel of its own'}")
    if fused := facts.get("fused_operators"):
        parts.append(f"fused at export: {', '.join(f'{name} × {count}' for name, count in fused.items())}")
    if words := elsewhere(facts.get("versions") or {}):
        parts.append(words)
    return ", ".join(parts)


def elsewhere(versions: Mapping[str, str]) -> str:
    """What the environment of a worker holds; "" for this one, whose Python need not be said."""
    if "python" not in versions:
        return ""
    return f"in an environment with {', '.join(f'{name} {version}' for name, version in versions.items())}"


def grouped(run: Run, messages: Sequence[tuple[Record, str]]) -> list[str]:
    """Each message once, with the candidates that it concerns and the points at which it does."""
    points = {
        run.name(candidate): len({str(record.point) for record in run.records if record.candidate == candidate})
        for candidate in run.candidates
    }
    places_of: dict[str, dict[str, list[str]]] = {}
    for record, message in messages:
        at = places_of.setdefault(message, {}).setdefault(run.name(record.candidate), [])
        at += [str(record.point)] if str(record.point) not in at else []
    lines = []
    for message, found in places_of.items():
        names_at: dict[str, list[str]] = {}
        for who, all_places in found.items():
            is_every = len(all_places) == points[who] > 1
            places = f"every {run.workload.point_noun}" if is_every else ", ".join(all_places)
            if len(all_places) > MOST_PLACES and not is_every:
                places = f"{len(all_places)} {run.workload.point_noun}s"
            names_at.setdefault(places, []).append(who)
        concerned = "; ".join(f"{', '.join(who)} at {at}" for at, who in names_at.items())
        lines.append(f"{concerned}: {message}")
    return lines


# Compilation.


def compilation(run: Run) -> list[str]:
    """One line for each candidate that compiled: the seconds, and after how many calls its start is paid back."""
    compiled: dict[str, list[tuple[Record, float]]] = {}
    for record in run.records:
        if record.status == "ok" and record.samples and (seconds := record.facts.get("compile_seconds")):
            compiled.setdefault(run.name(record.candidate), []).append((record, seconds))
    return [
        f"{name}: {_range([seconds for _, seconds in found])}; {_paid(run, found)}" for name, found in compiled.items()
    ]


def _range(seconds: Sequence[float]) -> str:
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{low} s" if low == high else f"{low} to {high} s"


def _paid(run: Run, found: Sequence[tuple[Record, float]]) -> str:
    """When the start is paid back, each answer once with the points that it is true of."""
    places: dict[str, list[str]] = {}
    for record, _ in found:
        places.setdefault(_paid_at(run, record), []).append(str(record.point))
    if len(places) == 1 and len(found) > 1:
        return f"{next(iter(places))} at every {run.workload.point_noun}"
    return "; ".join(f"{when} at {', '.join(points)}" for when, points in places.items())


def _paid_at(run: Run, record: Record) -> str:
    base, ratio = run.baseline(record), run.ratio(record)
    if base is None or base is record or ratio is None:
        return "held against nothing"
    name = run.name(base.candidate)
    if ratio.verdict == "tie":
        return f"never paid back (a tie with {name})"
    own, other = start_seconds(record), start_seconds(base)
    if own is None or other is None:
        return "held against nothing, as not every load was timed"
    saved_ms = (statistics.median(base.samples) - statistics.median(record.samples)) / 1e6
    when, calls = paid_back(own - other, saved_ms, run.workload.call_nouns)
    if when == "never":
        return f"never paid back against {name}"
    if when == "at once" or calls == math.inf:
        return f"{when} against {name}"
    return f"paid back against {name} after {when}"


def start_seconds(record: Record) -> float | None:
    """Load and what the first call took beyond any other, compilation included."""
    once = record.once
    if once.load_seconds is None or once.first_call_ns is None:
        return None
    return once.load_seconds + max(0.0, once.first_call_ns - statistics.median(record.samples)) / 1e9


def paid_back(extra_seconds: float, saved_ms: float, nouns: tuple[str, str]) -> tuple[str, float]:
    """After how many calls a start that took `extra_seconds` more is paid back, each call saving `saved_ms`: as words
    with one of `nouns` (one call, several), and as a number to sort by.
    """
    if saved_ms > 0:
        return ("at once", 0.0) if extra_seconds <= 0 else _calls(extra_seconds / saved_ms * 1e3, nouns)
    if extra_seconds < 0 and saved_ms < 0:
        return f"ahead for {_calls(extra_seconds / saved_ms * 1e3, nouns)[0]}", math.inf
    return "never", math.inf


def _calls(count: float, nouns: tuple[str, str]) -> tuple[str, float]:
    calls = math.ceil(count)
    return f"{calls:,} {nouns[calls != 1]}", float(calls)


def outcome(run: Run, record: Record) -> str:
    """What a timed cell came to, in a few words for the progress."""
    if record.status != "ok" or not record.samples:
        return f"{record.status}: {record.reason}" if record.reason else record.status
    median = milliseconds(statistics.median(record.samples))
    ratio = run.ratio(record)
    speed = "" if ratio is None or is_unsteady(ratio) else f"  {factor(ratio.value)}×"
    return f"{median} ms{speed}  {record.verdict}".rstrip()
