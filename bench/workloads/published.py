"""Figures that somebody published: whether the card that they are said of can do them, and beside what a run measured.

A file of figures is JSON: "about" in one line; "card" with name, precision, flops_per_second, bytes_per_second and
memory_bytes; "models" by name with layers, width, parameters, non_embedding_parameters and, if known,
stored_bytes_per_sequence (what autograd keeps of one sequence, by length); "rows" with model, batch, length, status
("ok", "oom" or "failed"), for a timed one "ms" (its readings), and "us_per_step" if that was published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import DASH, Column, Section, Table, factor, shown
from bench.machine import roofline
from bench.run import columns
from bench.run.record import Record, Run
from bench.spec import Shape

if TYPE_CHECKING:
    from exporters.sources import ModelSource

GIB, MIB = 2**30, 2**20
FIGURES = Path(__file__).resolve().parent / "presets" / "figures"
#: Columns that the table has only if a row has them.
OPTIONAL = ("naive", "us/step", "our us")
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
    median_ms = statistics.median(row["ms"]) if row["status"] == "ok" else None
    if median_ms is not None and not median_ms > 0:
        raise ValueError(f"{median_ms!r} ms is no time")
    if median_ms is None:
        verdict = OUTCOMES[row["status"]]
    else:
        verdict = "implausible" if roofline.is_implausible(limit, median_ms * 1e6) else "possible"
    rate = None if median_ms is None else flops / median_ms * 1e3
    return JudgedRow(
        row["model"], batch, length, flops, limit, median_ms, rate,
        peak_share=None if rate is None else rate / card["flops_per_second"],
        verdict=verdict,
        us_per_step=None if median_ms is None or row.get("us_per_step") is None else float(row["us_per_step"]),
        grad_bytes=grad_bytes,
    )  # fmt: skip


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


def memory() -> list[dict[str, Any]]:
    """Every file of published memory, in MiB: what a `device` held of a model once `loaded`, and with gradients."""
    return [json.loads(path.read_text()) for path in sorted(FIGURES.glob("*-memory.json"))]


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


def _figure(name: str, **more: Any) -> Column:
    """A figure of the published row at a record's shape, if there is one."""

    def found(run: Run, record: Record) -> Any:
        published = run.notes.get("published")
        rows = (row for row in judge(published) if row.shape == record.point) if published else ()
        return next((getattr(row, name) for row in rows), None)

    return Column(f"published_{name.removeprefix('median_')}", found, **more)


COLUMNS = (_figure("median_ms", help="published time, ms"), _figure("verdict"), _figure("us_per_step"))


def section(run: Run) -> Section:
    """The published rows beside ours; empty for a run without published figures."""
    published = run.notes.get("published")
    if not published:
        return Section("")
    card, judged = published["card"], judge(published)
    limits = f"{card['flops_per_second'] / 1e12:.1f} TFLOP/s, {card['memory_bytes'] / GIB:.2f} GiB"
    rule = (
        f"{published['about']} Medians in ms; ours: {run.baseline_candidate.label}, naive: its clock unsynchronised; "
        "of peak: what the published time takes of that card's; ratio: published over ours, above 1 if ours is faster"
    )
    rows = [_cells(run, row) for row in judged]
    titles = [one for one in rows[0] if one not in OPTIONAL or any(row[one] != DASH for row in rows)]
    table = Table(tuple(titles), tuple(tuple(row[title] for title in titles) for row in rows))
    explained = [*_of_clock(judged), *_of_memory(card["memory_bytes"], judged), *_measured_here(run)]
    return Section(f"Published: {card['name']}, {card['precision']} ({limits})", (rule,), table, explained)


def _cells(run: Run, row: JudgedRow) -> dict[str, str]:
    """One published row beside ours, by title."""
    record, us = run.record(row.shape, run.baseline_candidate), row.us_per_step
    ours = statistics.median(record.samples) / 1e6 if record and record.status == "ok" else None
    return {
        "shape": str(row.shape),
        "published": shown(row.median_ms),
        "of peak": DASH if row.peak_share is None else f"{row.peak_share:.0%}",
        "verdict": row.verdict,
        "ours": record.status if record and ours is None else shown(ours),
        "ratio": DASH if ours is None or row.median_ms is None else f"{factor(row.median_ms / ours)}×",
        "naive": shown(columns.median_ms("naive")(run, record) if record else None),
        "us/step": DASH if us is None else f"{us:g}",
        "our us": DASH if ours is None or us is None else shown(1e3 * ours / row.length),
    }


def _of_clock(judged: list[JudgedRow]) -> Iterator[str]:
    """What explains published times that no card can have, and steps that are one less than the length."""
    if impossible := [f"{row.shape} ({row.peak_share:.0%})" for row in judged if row.verdict == "implausible"]:
        yield (
            f"implausible: {', '.join(impossible)} of that card's peak; such a clock stopped when the work was "
            "queued and not when it was done, as the naive timer of a run on a GPU shows"
        )
    if less := [str(row.shape) for row in judged if row.us_per_step is not None and row.steps != row.length]:
        yield f"us/step as published is time / (length - 1) at {', '.join(less)}; ours is time / length"


def _of_memory(card_bytes: int, judged: list[JudgedRow]) -> Iterator[str]:
    """Whether what autograd keeps explains the rows that ended without a time."""
    lost = [(row, row.grad_bytes) for row in judged if row.median_ms is None and row.grad_bytes is not None]
    for is_beyond, cause, remedy in (
        (True, "exceed", "; without gradients none of that is kept"),
        (False, "would fit into, so they do not explain it,", ""),
    ):
        if found := [(row, needed) for row, needed in lost if (needed > card_bytes) == is_beyond]:
            needs = ", ".join(f"{row.shape} ({needed / GIB:.1f} GiB)" for row, needed in found)
            outcomes = " or ".join(dict.fromkeys(row.verdict for row, _ in found))
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
    name = "key_value_bytes_per_sequence"
    kept = [one for one in run.records if name in one.memory]
    if not kept:
        return Section("")
    last = max(kept, key=lambda one: (one.point.length, one.candidate.precision))
    at = f"{last.point.length} tokens in {last.candidate.precision}"
    return Section("", (f"keys and values of one sequence of {at}, by formula: {last.memory[name]:,} bytes",))


def memory_beside(run: Run) -> list[str]:
    """What others measured of the same model once loaded."""
    precisions = {candidate.precision for candidate in run.candidates}
    found = [(one, one["loaded"].get(run.model.name)) for one in memory() if one["precision"] in precisions]
    return [
        f"published, {one['device']}: {held['process_mib']} MiB of process, of which "
        f"{held['weights_and_rounding_mib']} are weights, masks and the allocator's rounding, and "
        f"{held['process_mib'] - held['weights_and_rounding_mib']} CUDA context and kernels"
        for one, held in found
        if held
    ]


def gradients_beside(run: Run, length: int, precision: str) -> str:
    """What others saw autograd store of a sequence, behind what was seen here; "" if nobody did."""
    found = ((one, one["stored_with_gradients_mib_per_sequence"].get(run.model.name, {})) for one in memory())
    return "".join(
        f" (published, {one['device']}: {stored[str(length)]} MiB with gradients)"
        for one, stored in found
        if str(length) in stored and precision == one["precision"]
    )
