"""What somebody published beside what this run measured: one row a shape, and what explains the odd ones."""

from __future__ import annotations

from collections.abc import Iterator

from bench import statistics
from bench.records import Record, Run
from bench.report import summary
from bench.report.columns import shown
from bench.spec import Candidate, Shape
from bench.workloads.published import JudgedRow, judge

GIB = 2**30
MIB = 2**20


def heading(run: Run) -> list[str]:
    """A title and what the table below it holds; nothing for a run without published figures."""
    if not run.published:
        return []
    card = run.published["card"]
    limits = f"{card['flops_per_second'] / 1e12:.1f} TFLOP/s, {card['memory_bytes'] / GIB:.2f} GiB"
    first = run.grid.contestants[0].label
    return [
        f"Published: {card['name']}, {card['precision']} ({limits})",
        (
            f"{run.published['about']} Medians in ms; ours: {first}, naive: its clock unsynchronised; of peak: what "
            "the published time takes of that card's; ratio: published over ours, above 1 where ours is faster"
        ),
    ]


def table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Titles, and the cells of each published row."""
    judged = judge(run.published)
    first = run.grid.contestants[0]
    has_naive = any(record.naive_rounds for record in run.records if record.contestant == first)
    has_steps = any(row.us_per_step is not None for row in judged)
    titles = ["shape", "published", "of peak", "verdict", "ours", "ratio"]
    titles += ["naive"] if has_naive else []
    titles += ["us/step", "our us"] if has_steps else []
    rows = []
    for row in judged:
        record = _record(run, row, first)
        ours = statistics.median(record.samples) / 1e6 if record and record.status == "ok" else None
        cells = [str(row.shape), "–" if row.median_ms is None else shown(row.median_ms)]
        cells += ["–" if row.peak_share is None else f"{row.peak_share:.0%}", row.verdict]
        cells.append(_outcome(run, record) if ours is None else shown(ours))
        cells.append("–" if ours is None or row.median_ms is None else f"{summary.factor(row.median_ms / ours)}×")
        if has_naive:
            naive = statistics.pooled(record.naive_rounds) if record else []
            cells.append(shown(statistics.median(naive) / 1e6) if naive else "–")
        if has_steps:
            cells.append("–" if row.us_per_step is None else f"{row.us_per_step:g}")
            cells.append("–" if ours is None or row.us_per_step is None else shown(1e3 * ours / row.length))
        rows.append(cells)
    return titles, rows


def explanations(run: Run) -> list[str]:
    """Lines on what the published rows that are impossible, or ended without a time, come from."""
    if not run.published:
        return []
    judged = judge(run.published)
    return [*_of_impossible(judged), *_of_steps(judged), *_of_memory(run, judged), *_measured_here(run)]


def _of_impossible(judged: list[JudgedRow]) -> Iterator[str]:
    impossible = [f"{row.shape} ({row.peak_share:.0%})" for row in judged if row.verdict == "implausible"]
    if impossible:
        yield (
            f"implausible: {', '.join(impossible)} of that card's peak; such a clock stopped when the work was "
            "queued and not when it was done, as the naive timer of a run on a GPU shows"
        )


def _of_steps(judged: list[JudgedRow]) -> Iterator[str]:
    less = [str(row.shape) for row in judged if row.us_per_step is not None and row.steps != row.length]
    if less:
        yield f"us/step as published is time / (length - 1) at {', '.join(less)}; ours is time / length"


def _of_memory(run: Run, judged: list[JudgedRow]) -> Iterator[str]:
    card_bytes = run.published["card"]["memory_bytes"]
    lost = [(row, row.grad_bytes) for row in judged if row.median_ms is None and row.grad_bytes is not None]
    for is_beyond in (True, False):
        found = [(row, needed) for row, needed in lost if (needed > card_bytes) == is_beyond]
        if not found:
            continue
        needs = ", ".join(f"{row.shape} ({needed / GIB:.1f} GiB)" for row, needed in found)
        outcomes = " or ".join(dict.fromkeys(row.verdict for row, _ in found))
        cause = "exceed" if is_beyond else "would fit into, so they do not explain it,"
        remedy = "; without gradients none of that is kept" if is_beyond else ""
        yield (
            f"{outcomes} there, {needs}: weights and what autograd keeps of the batch {cause} "
            f"{card_bytes / GIB:.2f} GiB{remedy}"
        )


def _measured_here(run: Run) -> Iterator[str]:
    """What autograd adds to a call here, at the largest shape that eager was measured at with and without."""
    held: dict[str, dict[Shape, int]] = {"default": {}, "grad": {}}
    for record in run.records:
        peak = record.peak_bytes
        is_first = (record.backend, record.copy, record.precision) == ("eager", 1, run.grid.contestants[0].precision)
        if is_first and record.variant in held and record.status == "ok" and peak is not None:
            held[record.variant][record.shape] = peak
    if both := held["default"].keys() & held["grad"].keys():
        shape = max(both, key=lambda one: one.batch * one.length)
        plain, grad = held["default"][shape], held["grad"][shape]
        yield (
            f"here autograd adds {max(0, grad - plain) / shape.batch / MIB:.0f} MiB a sequence at {shape}: one call "
            f"peaks at {grad / GIB:.2f} GiB with it (eager:grad), {plain / GIB:.2f} GiB without (eager)"
        )


def _record(run: Run, row: JudgedRow, contestant: Candidate) -> Record | None:
    return next((r for r in run.records if r.shape == row.shape and r.contestant == contestant), None)


def _outcome(run: Run, record: Record | None) -> str:
    if record is None:
        return "–"
    return "left out" if run.is_left_out(record) else record.status
