"""Figures that somebody published: whether the card that they are said of can do them, and beside what a run measured.

A file of figures is JSON: "about" in one line; "card" with name, precision, flops_per_second, bytes_per_second and
memory_bytes; "models" by name with layers, width, parameters, non_embedding_parameters and, if known,
stored_bytes_per_sequence (what autograd keeps of one sequence, by length); "rows" with model, batch, length, status
("ok", "oom" or "failed"), for a timed one "ms" (its readings), and "us_per_step" if that was published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import DASH, Column, Section, Table, factor, shown
from bench.machine import roofline
from bench.run.record import Record, Run
from bench.spec import Shape

if TYPE_CHECKING:
    from exporters.sources import ModelSource

GIB, MIB = 2**30, 2**20
FIGURES = Path(__file__).resolve().parent / "presets" / "figures"
OUTCOMES = {"oom": "out of memory", "failed": "failed"}


@dataclass(frozen=True)
class JudgedRow:
    """One published row: what it takes, what its median implies, and the verdict."""

    model: str
    batch: int
    length: int
    flops: int
    floor: roofline.Floor
    median_ms: float | None
    """None for a row without times."""
    flops_per_second: float | None
    peak_share: float | None
    verdict: str
    us_per_step: float | None = None
    """As it was published; None if it was not."""
    grad_bytes: int | None = None
    """Weights and what autograd keeps of the whole batch; None if that is not known at this length."""

    @property
    def shape(self) -> Shape:
        """Batch and length."""
        return Shape(self.batch, self.length)

    @property
    def steps(self) -> int:
        """What the published us per step are a division by: length, or length - 1 if that comes nearer to them."""
        if self.us_per_step is None or self.median_ms is None or self.length < 2:
            return self.length
        us, published = self.median_ms * 1e3, self.us_per_step
        return min(self.length, self.length - 1, key=lambda steps: abs(us / steps - published))


def judge(data: Mapping[str, Any]) -> list[JudgedRow]:
    """Every row of `data` as the file holds it; raises KeyError, TypeError or ValueError for one that lacks a part."""
    return [_judged(row, data["models"][row["model"]], data["card"]) for row in data["rows"]]


def _judged(row: Mapping[str, Any], model: Mapping[str, Any], card: Mapping[str, Any]) -> JudgedRow:
    weights, batch, length = model["non_embedding_parameters"], row["batch"], row["length"]
    if not all(isinstance(size, int) and size > 0 for size in (batch, length)):
        raise ValueError(f"batch {batch!r} or length {length!r} is no positive integer")
    flops = roofline.transformer_flops(weights, model["layers"], model["width"], batch, length)
    element_bytes = roofline.WEIGHT_BYTES[card["precision"]]
    limit = roofline.floor_ns(flops, weights * element_bytes, card["flops_per_second"], card["bytes_per_second"])
    stored = model.get("stored_bytes_per_sequence", {}).get(str(length))
    grad_bytes = None if stored is None else model["parameters"] * element_bytes + batch * int(stored)
    if row["status"] != "ok":
        outcome = OUTCOMES[row["status"]]
        return JudgedRow(row["model"], batch, length, flops, limit, None, None, None, outcome, None, grad_bytes)
    median_ms = statistics.median(row["ms"])
    if not median_ms > 0:
        raise ValueError(f"{median_ms!r} ms is no time")
    verdict = "implausible" if roofline.is_implausible(limit, median_ms * 1e6) else "possible"
    rate = flops / median_ms * 1e3
    share = rate / card["flops_per_second"]
    us_per_step = None if row.get("us_per_step") is None else float(row["us_per_step"])
    return JudgedRow(
        row["model"], batch, length, flops, limit, median_ms, rate, share, verdict, us_per_step, grad_bytes
    )


def of_model(data: Mapping[str, Any], model: str, shapes: Iterable[Shape]) -> dict[str, Any]:
    """`data` with those rows alone that are of `model` at one of `shapes`; {} if there is none."""
    wanted = set(shapes)
    rows = [row for row in data["rows"] if row["model"] == model and Shape(row["batch"], row["length"]) in wanted]
    if not rows:
        return {}
    return {"about": data["about"], "card": data["card"], "models": {model: data["models"][model]}, "rows": rows}


def check(data: Any) -> None:
    """Raise KeyError, TypeError, ValueError or AttributeError if `data` are no figures that can be judged."""
    if not (isinstance(data["about"], str) and isinstance(data["card"]["name"], str)):
        raise TypeError("about or the card's name are no text")
    if not data["card"]["memory_bytes"] > 0:
        raise ValueError("a card without memory")
    judge(data)


@dataclass(frozen=True)
class Memory:
    """What one machine held, in MiB, as somebody published it."""

    device: str
    precision: str
    loaded: Mapping[str, Mapping[str, int]]
    """By model: `process_mib` once it was loaded, and `weights_and_rounding_mib` of it."""
    stored: Mapping[str, Mapping[str, int]]
    """By model and length: what autograd stores for one sequence."""


def memory(folder: Path = FIGURES) -> tuple[Memory, ...]:
    """Every file of published memory."""
    found = []
    for path in sorted(folder.glob("*-memory.json")):
        data = json.loads(path.read_text())
        stored = data["stored_with_gradients_mib_per_sequence"]
        found.append(Memory(data["device"], data["precision"], data["loaded"], stored))
    return tuple(found)


# Beside what a run measured.


def notes(preset: str | None, source: ModelSource, shapes: Iterable[Shape]) -> dict[str, Any]:
    """What a run of a preset notes of itself: the preset, and its published figures if they are of the same model."""
    if preset is None:
        return {}
    from bench.workloads import presets

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


def memory_beside(run: Run) -> list[str]:
    """What others measured of the same model once loaded."""
    found = []
    for one in memory():
        if run.model.name in one.loaded and one.precision in {candidate.precision for candidate in run.candidates}:
            held = one.loaded[run.model.name]
            process, weights = held["process_mib"], held["weights_and_rounding_mib"]
            found.append(
                f"published, {one.device}: {process} MiB of process, of which {weights} are weights, masks and the "
                f"allocator's rounding, and {process - weights} CUDA context and kernels"
            )
    return found
