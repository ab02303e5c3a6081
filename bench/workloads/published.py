"""What somebody published beside what a run measured: one row a shape, and what explains the odd ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import DASH, Column, Section, Table, factor, shown
from bench.published import JudgedRow, judge, of_model
from bench.run.record import Record, Run
from bench.spec import Shape

if TYPE_CHECKING:
    from exporters.sources import ModelSource

GIB, MIB = 2**30, 2**20


def notes(preset: str | None, source: ModelSource, shapes: Iterable[Shape]) -> dict[str, Any]:
    """What a run of a preset notes of itself: the preset, and its published figures if they are of the same model."""
    if preset is None:
        return {}
    from bench import presets

    found = presets.load(preset)
    noted: dict[str, Any] = {"preset": {"name": found.name, "title": found.title, "source": found.source}}
    is_same = bool(found.figures) and (source.name, source.task) == (found.model, found.task)
    if is_same and (figures := of_model(found.figures, source.name, shapes)):
        noted["published"] = figures
    return noted


def _row(run: Run, shape: Shape) -> JudgedRow | None:
    """The published figure at `shape`, judged; None if the run has none."""
    published = run.notes.get("published")
    return next((row for row in judge(published) if row.shape == shape), None) if published else None


def _of_row(value: Callable[[JudgedRow], Any]) -> Callable[[Run, Record], Any]:
    def found(run: Run, record: Record) -> Any:
        row = _row(run, record.point)
        return None if row is None else value(row)

    return found


COLUMNS = (
    Column("published_ms", _of_row(lambda row: row.median_ms), help="published time, ms"),
    Column("published_verdict", _of_row(lambda row: row.verdict)),
    Column("published_us_per_step", _of_row(lambda row: row.us_per_step)),
)


def section(run: Run) -> Section:
    """The published rows beside ours; empty for a run without published figures."""
    published = run.notes.get("published")
    if not published:
        return Section("")
    card, baseline = published["card"], run.baseline_candidate
    limits = f"{card['flops_per_second'] / 1e12:.1f} TFLOP/s, {card['memory_bytes'] / GIB:.2f} GiB"
    rule = (
        f"{published['about']} Medians in ms; ours: {baseline.label}, naive: its clock unsynchronised; of peak: what "
        "the published time takes of that card's; ratio: published over ours, above 1 if ours is faster"
    )
    judged = judge(published)
    explained = [*_of_impossible(judged), *_of_steps(judged), *_of_memory(published, judged), *_measured_here(run)]
    title = f"Published: {card['name']}, {card['precision']} ({limits})"
    return Section(title, (rule,), _table(run, judged), explained)


def _table(run: Run, judged: list[JudgedRow]) -> Table:
    baseline = run.baseline_candidate
    has_naive = any(record.rounds_ns("naive") for record in run.records if record.candidate == baseline)
    has_steps = any(row.us_per_step is not None for row in judged)
    titles = ["shape", "published", "of peak", "verdict", "ours", "ratio"]
    titles += [*(["naive"] if has_naive else []), *(["us/step", "our us"] if has_steps else [])]
    rows = []
    for row in judged:
        record = run.record(row.shape, baseline)
        ours = statistics.median(record.samples) / 1e6 if record and record.status == "ok" else None
        cells = [str(row.shape), DASH if row.median_ms is None else shown(row.median_ms)]
        cells += [DASH if row.peak_share is None else f"{row.peak_share:.0%}", row.verdict]
        cells.append(shown(ours) if ours is not None else record.status if record else DASH)
        cells.append(DASH if ours is None or row.median_ms is None else f"{factor(row.median_ms / ours)}×")
        if has_naive:
            naive = statistics.pooled(record.rounds_ns("naive")) if record else []
            cells.append(shown(statistics.median(naive) / 1e6) if naive else DASH)
        if has_steps:
            cells.append(DASH if row.us_per_step is None else f"{row.us_per_step:g}")
            cells.append(DASH if ours is None or row.us_per_step is None else shown(1e3 * ours / row.length))
        rows.append(tuple(cells))
    return Table(tuple(titles), tuple(rows))


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


def _of_memory(published: dict[str, Any], judged: list[JudgedRow]) -> Iterator[str]:
    card_bytes = published["card"]["memory_bytes"]
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
    precision = run.baseline_candidate.precision
    for record in run.records:
        one, peak = record.candidate, run.peak_bytes(record)
        is_eager = (one.backend, one.copy, one.precision) == ("eager", 1, precision)
        if is_eager and one.variant in held and record.status == "ok" and peak is not None:
            held[one.variant][record.point] = peak
    if both := held["default"].keys() & held["grad"].keys():
        shape = max(both, key=lambda at: at.batch * at.length)
        plain, grad = held["default"][shape], held["grad"][shape]
        yield (
            f"here autograd adds {max(0, grad - plain) / shape.batch / MIB:.0f} MiB a sequence at {shape}: one call "
            f"peaks at {grad / GIB:.2f} GiB with it (eager:grad), {plain / GIB:.2f} GiB without (eager)"
        )


def cache_section(run: Run) -> Section:
    """A decoder's keys and values, by formula; empty for an encoder."""
    sizes = {
        (record.point.length, record.candidate.precision): record.memory["key_value_bytes_per_sequence"]
        for record in run.records
        if "key_value_bytes_per_sequence" in record.memory
    }
    if not sizes:
        return Section("")
    (length, precision), held = max(sizes.items())
    line = f"keys and values of one sequence of {length} tokens in {precision}, by formula: {held:,} bytes"
    return Section("", (line,))
