"""What the printed reports share: rows of one shape, the winner of a cell, warnings grouped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench import doubling, statistics
from bench.records import Record, Run, is_unsteady, ratio_between
from bench.spec import Shape

#: Share of all CPU time, used by others before a run began, above which they will have disturbed it.
BUSY_SHARE = 0.1


@dataclass(frozen=True)
class Winner:
    """Who is fastest at one shape among those that are still the same model."""

    record: Record
    ties: tuple[Record, ...]
    """Contestants whose ratio to the fastest has the verdict tie, or none."""
    speedup: float | None
    """Against the first contestant."""


def shapes(run: Run) -> Iterator[tuple[Shape, list[Record]]]:
    """Each planned shape that has records, with them in the order of the contestants."""
    order = {contestant: index for index, contestant in enumerate(run.grid.contestants)}
    for shape in run.grid.shapes:
        records = [record for record in run.records if record.shape == shape]
        if records:
            yield shape, sorted(records, key=lambda record: order.get(record.contestant, len(order)))


def is_left_out(run: Run, records: list[Record]) -> bool:
    """True for a shape that the run left out whole."""
    return all(run.is_left_out(record) for record in records)


def winner(run: Run, records: list[Record]) -> Winner | None:
    """The fastest of one shape's `records`; None where fewer than two can be compared."""
    rivals = comparable(run, records)
    if len(rivals) < 2:
        return None
    fastest = min(rivals, key=lambda record: statistics.median(record.samples))
    others = (record for record in rivals if record is not fastest)
    ties = tuple(record for record in others if not _is_beaten(fastest, record))
    return Winner(fastest, ties, run.speedup(fastest))


def comparable(run: Run, records: list[Record]) -> list[Record]:
    """Those of `records` that computed the model, the same model, in a time that this machine can reach."""
    return [r for r in records if r.is_comparable and r.judged and not run.is_implausible(r)]


def _is_beaten(fastest: Record, record: Record) -> bool:
    ratio = ratio_between(record, fastest)
    return ratio is not None and ratio.verdict == "faster"


def boundary(run: Run) -> str:
    """What lies within a timed call besides the forward pass."""
    on_device = run.grid.boundary == "device"
    return "inputs and outputs on the device" if on_device else "host arrays in and out, copies timed"


def name(run: Run, record: Record) -> str:
    """`backend:variant`, with the precision where the run has several."""
    has_many = len({contestant.precision for contestant in run.grid.contestants}) > 1
    return f"{record.contestant.label} {record.precision}" if has_many else record.contestant.label


def winner_line(run: Run, won: Winner) -> str:
    """One line: who is fastest, by how much, or with whom it ties."""
    first = run.grid.contestants[0]
    line = f"fastest: {name(run, won.record)}"
    is_tied_with_first = any(record.contestant == first for record in won.ties)
    if won.speedup is not None and won.record.contestant != first and not is_tied_with_first:
        line += f", {won.speedup:.2f}× {first.label}"
    if won.ties:
        line += f" (tie with {', '.join(name(run, record) for record in won.ties)})"
    return line


def speedup_cell(run: Run, record: Any) -> str:
    """`2.70× 2.61–2.78`, `tie 0.98–1.14`, `implausible`, or a dash where models or rounds allow no speed-up."""
    if run.is_implausible(record):
        return "implausible"
    ratio = run.ratio(record)
    if ratio is None:
        return "–"
    if record.contestant == run.grid.contestants[0]:
        return "1×"
    return ratio_cell(ratio)


def ratio_cell(ratio: statistics.Ratio) -> str:
    """`2.70× 2.61–2.78`; verdict and interval alone for a tie, and where the interval is too wide to have a middle."""
    if ratio.interval is None:
        return f"{factor(ratio.value)}× (1 round)"
    span = f"{factor(ratio.interval.low)}–{factor(ratio.interval.high)}"
    return (
        f"{ratio.verdict} {span}" if is_unsteady(ratio) or ratio.verdict == "tie" else f"{factor(ratio.value)}× {span}"
    )


def factor(value: float) -> str:
    """A ratio with three significant digits at most: `0.042`, `0.97`, `12.3`, `850`."""
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if value < 1e4 else f"{value:.0e}"


def largest_with_memory(run: Run) -> list[Record]:
    """Each contestant's record at the last shape that it was measured at, where memory was noted."""
    found = {}
    for record in run.records:
        if record.memory.get("loaded") and record.judged and (record.status == "ok" or record.contestant not in found):
            found[record.contestant] = record
    order = list(run.grid.contestants)
    return sorted(found.values(), key=lambda record: order.index(record.contestant))


def cache_lines(run: Run) -> list[str]:
    """One line on a decoder's keys and values, by formula; none for an encoder."""
    sizes = {
        (record.length, record.precision): record.memory["key_value_bytes_per_sequence"]
        for record in run.records
        if "key_value_bytes_per_sequence" in record.memory
    }
    if not sizes:
        return []
    (length, precision), held = max(sizes.items())
    return [f"keys and values of one sequence of {length} tokens in {precision}, by formula: {held:,} bytes"]


def engagement(run: Run) -> list[str]:
    """What really ran: providers, copies, graphs, attention kernels; one line a kind."""
    return grouped(run, [(record, line) for record in run.records if (line := _engaged(record.facts))])


def _engaged(facts: dict[str, Any]) -> str:
    parts = [f"{nodes} nodes on {provider}" for provider, nodes in (facts.get("nodes_per_provider") or {}).items()]
    if facts.get("copies_inserted") is not None:
        parts.append(f"{facts['copies_inserted']} copies between devices")
    if on_cpu := facts.get("operators_on_cpu"):
        parts.append("on the CPU: " + ", ".join(f"{name} × {count}" for name, count in on_cpu.items()))
    if "graphs" in facts:
        graphs = f"{facts['graphs']} graph" + ("" if facts["graphs"] == 1 else "s")
        parts.append(f"{graphs}, {facts['graph_breaks']} breaks")
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
    """What the environment of a worker holds; "" where it is this one, whose Python need not be told."""
    if "python" not in versions:
        return ""
    return f"in an environment with {', '.join(f'{name} {version}' for name, version in versions.items())}"


def grouped(run: Run, messages: list[tuple[Record, str]]) -> list[str]:
    """Each message once, with the contestants that it concerns and the shapes where it does."""
    found = [(name(run, record), str(record.shape), message) for record, message in messages]
    return grouped_by_place(found, len({shape for shape, _ in run.planned()}), "shape")


def grouped_by_place(messages: list[tuple[str, str, str]], places: int, noun: str) -> list[str]:
    """Each message once, from (who, where, message); `places` are all there are, of the kind that `noun` names."""
    places_of: dict[str, dict[str, list[str]]] = {}
    for who, where, message in messages:
        places_of.setdefault(message, {}).setdefault(who, []).append(where)
    lines = []
    for message, found in places_of.items():
        names_at: dict[str, list[str]] = {}
        for who, where_all in found.items():
            at = f"every {noun}" if len(where_all) == places > 1 else ", ".join(where_all)
            names_at.setdefault(at, []).append(who)
        told = "; ".join(f"{', '.join(who)} at {at}" for at, who in names_at.items())
        lines.append(f"{told}: {message}")
    return lines


def findings(run: Run) -> tuple[list[str], list[str]]:
    """Reasons of the cells that were not measured, and warnings on those that were."""
    reasons = [(record, f"{record.status}: {record.reason}") for record in run.records if record.status != "ok"]
    reasons = [found for found in reasons if not (run.is_doubling and doubling.is_beyond(found[0]))]
    warnings = [(record, warning) for record in run.records for warning in record.warnings]
    for record in run.records:
        warnings += [(record, message) for message in _computed_warnings(run, record)]
    return grouped(run, reasons), [*_of_the_machine(run), *grouped(run, warnings)]


def _computed_warnings(run: Run, record: Record) -> Iterator[str]:
    """Warnings that rest on other records or on the machine."""
    if run.is_implausible(record):
        yield (
            "implausible: the median lies below the time that this machine's peak allows; "
            "the work was not done, or not waited for"
        )
    if width := run.unsteadiness(record):
        folds = next(f"over {limit}-fold" for limit in (100, 10, 2, 0) if width > limit)
        yield f"no speed-up, as the rounds disagree on it (interval {folds}); measure again undisturbed"
    for line in run.taint(record):
        yield f"tainted: {line}"


def _of_the_machine(run: Run) -> list[str]:
    lines = []
    busy = run.fingerprint.get("busy_share", 0.0)
    if busy > BUSY_SHARE:
        lines.append(f"other work took {busy:.0%} of the CPUs when the run began; stop it and measure again")
    measured = [record.conditions for record in run.records if record.conditions]
    if run.grid.device == "cuda" and measured and not any("gpu" in conditions for conditions in measured):
        lines.append("nothing watched the GPU's clocks and processes; run: pip install nvidia-ml-py")
    if run.peaks is not None and any(
        run.peaks.is_disturbed(run.grid.computed_in(contestant.precision)) for contestant in run.grid.contestants
    ):
        lines.append(
            "no floors, as other work ran while the machine's peaks were measured; the next run measures them again"
        )
    return lines
