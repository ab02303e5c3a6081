"""The four rules that judge claims: a figure, the range of all times, ratios of pairs, and growth with length.

claims.toml names the rule of each claim and gives it all particulars, the words of its evidence included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench import statistics
from bench.run.held import GIB, MIB
from bench.statistics import Interval
from bench.study.cells import PRECISION, Cell, figure_of, find, hardware
from bench.study.findings import (
    CONFIRMED,
    REFUTED,
    UNDECIDED,
    Finding,
    every,
    factor,
    judged,
    not_tested,
    shown,
    span,
)
from bench.study.series import Pair, Series, deciding, exponents, pairs, series, times_faster, weight

FORMATS = ("eager", "torchscript", "onnx")
#: By what a figure in milliseconds, bytes or shares is divided.
UNITS = {"ms": 1.0, "us": 1e-3, "s": 1e3, "MiB": MIB, "GiB": GIB, "M elements": 4e6, "": 1.0}
#: A claim's device, or None for any.
Device = str | None
Holds = Mapping[str, Any]


def figure(
    cells: Sequence[Cell],
    device: Device,
    *,
    at: Mapping[str, Any],
    of: Sequence[Mapping[str, Any]],
    holds: Holds,
    beside: Sequence[Mapping[str, Any]] = (),
    refuted: str = "",
    above: str = "",
) -> Finding:
    """A figure holds; of several, the first that a run has decides.

    `at` is where, as traits of cells. `refuted` is why no run could confirm it, `above` why a figure above it does not
    refute it; what `beside` gives is told with it.
    """
    told = [one for each in of for one in _figures(cells, device, at, each)]
    lines = [line for each in beside for _, line in _figures(cells, device, at, each)]
    here = [line for _, line in told[:1]]
    if refuted:
        return Finding(REFUTED, (refuted, *here, *lines))
    if not told:
        return not_tested(*lines)
    interval = told[0][0]
    outcome = judged(interval, holds)
    if above and outcome == REFUTED and interval is not None and interval.low > holds["inside"][1]:
        return Finding(UNDECIDED, (*here, above, *lines))
    return Finding(outcome, (*here, *lines))


def _figures(
    cells: Sequence[Cell], device: Device, at: Mapping[str, Any], of: Mapping[str, Any]
) -> Iterator[tuple[Interval | None, str]]:
    """The interval and the line of one figure, as claims.toml describes it; none, or one unless `each` is given."""
    wanted = {name: at[name] for name in of["at"]} | of["where"] | {"precision": PRECISION}
    wanted |= {} if device is None else {"device": device}
    for cell in find(cells, wanted):
        if cell.backend == of.get("but") or (value := figure_of(cell, of["figure"], at)) is None:
            continue
        scale = 1 / UNITS[of["unit"]] / (at[of["per"]] if "per" in of else 1)
        ends = value.interval and Interval(value.interval.low * scale, value.interval.high * scale)
        naive = statistics.pooled(cell.record.rounds_ns("naive"))
        words = {
            "raw": value.middle,
            "value": value.middle * scale,
            "shown": f"{shown(value.middle * scale)} {of['unit']}{span(ends)}",
            "backend": cell.backend,
            "disturbed": ", disturbed" if cell.is_disturbed else "",
            "naive": f"; a clock that never waits says {shown(statistics.median(naive) / 1e6)} ms" if naive else "",
        }
        yield ends, of["text"].format(**{**at, **words})
        if not of.get("each"):
            return


def extremes(cells: Sequence[Cell], device: Device, *, slowest: Holds, fastest: Holds, missing: str) -> Finding:
    """The slowest and the fastest of all sentences hold; `missing` is why one kind of device alone is no proof."""
    here = [cell for cell in cells if cell.order is not None and not cell.fault and cell.precision == PRECISION]
    here = sorted((cell for cell in here if cell.backend in FORMATS), key=lambda cell: cell.sample_ms.middle)
    if not here:
        return not_tested()
    evidence, outcomes = [], []
    for word, cell, holds in (("slowest", here[-1], slowest), ("fastest", here[0], fastest)):
        ms = cell.sample_ms
        place = f"{cell.backend} at batch {cell.batch} {cell.order}, {hardware(cell.run)}"
        evidence.append(f"{word}: {shown(ms.middle)} ms{span(ms.interval)}, {place}")
        outcomes.append(judged(ms.interval, holds))
    # Further settings only widen a range: what lies beyond it now will do so then.
    above, below = {"above": slowest["inside"][1]}, {"above": fastest["inside"][0]}
    is_beyond = judged(here[-1].sample_ms.interval, above) == CONFIRMED
    if is_beyond or judged(here[0].sample_ms.interval, below) == REFUTED:
        return Finding(REFUTED, tuple(evidence))
    if len({cell.device for cell in here}) < 2:
        return not_tested(*evidence, missing)
    return Finding(every(outcomes), tuple(evidence))


def ratios(
    cells: Sequence[Cell],
    device: Device,
    *,
    pair: Mapping[str, Any],
    holds: Holds,
    order: str = "",
    least_batches: int = 1,
    least_formats: int = 1,
    line: str,
    missing: str,
    on_cpu: str = "",
) -> Finding:
    """The ratio of every pair of cells of one series holds.

    Without `least_batches` of them, and as many formats at one of these, `missing` says so unless the claim is refuted
    already. `on_cpu` tells of the same ratio against a cell of the CPU.
    """
    found = deciding([cell for cell in cells if cell.device == device], order)
    if found is None:
        return not_tested()
    evidence: list[str] = []
    outcomes: list[str] = []
    formats: dict[int | None, set[str]] = {}
    paired = _pairs(found, **pair)
    for slow, fast, ratio in paired:
        if "fast" not in pair and slow.batch not in formats:
            here = [cell for cell in found.pick(**pair["slow"]) if cell.batch == slow.batch]
            times = ", ".join(f"{cell.backend} {shown(cell.sample_ms.middle)}" for cell in here)
            evidence.append(f"batch {slow.batch}, ms a sample: {times}")
        formats.setdefault(slow.batch, set()).update((slow.backend, fast.backend))
        outcomes.append(judged(ratio.interval if ratio else None, holds))
        evidence.append(line.format(slow=slow, fast=fast, ratio=factor(ratio), outcome=outcomes[-1]))
    outcome = every(outcomes)
    is_whole = max(map(len, formats.values()), default=0) >= least_formats
    if len(formats) < least_batches or not (is_whole or outcome == REFUTED):
        return not_tested(*evidence, missing.format(series=found.name))
    on_another = deciding([cell for cell in cells if cell.device == "cpu"], order) if on_cpu else None
    if on_another is not None and on_another.setting == found.setting:
        of_cpu = (times_faster(slow, paired[0][1]) for slow in on_another.pick(**pair["slow"]))
        evidence += [on_cpu.format(ratio=factor(ratio)) for ratio in of_cpu]
    return Finding(outcome, (_named(found, [cell for pair in paired for cell in pair[:2]]), *evidence))


def _pairs(
    of: Series, slow: Mapping[str, Any], fast: Mapping[str, Any] | None = None, same: str = "", is_best: bool = False
) -> list[Pair]:
    """Pairs of `slow` cells and `fast` ones, or if `is_best` the fastest of these; or any two of `slow`.

    They have the trait `same` in common.
    """
    ones, others = of.pick(**slow), of.pick(**(fast or slow))
    if is_best:
        others = sorted(others, key=lambda cell: cell.sample_ms.middle)[:1]
    of_both = [(one, other, times_faster(one, other)) for one in ones for other in others]
    found = pairs(ones) if fast is None else of_both
    return [pair for pair in found if not same or getattr(pair[0], same) == getattr(pair[1], same)]


def growth(
    cells: Sequence[Cell], device: Device, *, batches: Sequence[float], least_span: float, holds: Holds
) -> Finding:
    """The exponent of length by which each format's time grows holds, at the largest batch within two `batches`."""
    found = [
        (one, grown)
        for one in series((cell for cell in cells if cell.device == device), "length")
        if batches[0] <= (one.any_cell.batch or 0) <= batches[1] and (grown := exponents(one, FORMATS, least_span))
    ]
    if not found:
        return not_tested()
    one, grown = max(found, key=lambda pair: (pair[0].any_cell.batch, weight(pair[0])))
    outcomes = {name: judged(interval, holds) for name, (_, interval) in grown.items()}
    evidence = (f"{name}: time ~ length^{p:.2f}{span(ends)}: {outcomes[name]}" for name, (p, ends) in grown.items())
    head = f"{_named(one, one.pick(list(grown)))}, lengths {one.sizes[0]} to {one.sizes[-1]}"
    return Finding(every(outcomes.values()), (head, *evidence))


def _named(one: Series, cells: Sequence[Cell]) -> str:
    return one.name + ("; some cells were disturbed" if any(cell.is_disturbed for cell in cells) else "")


RULES: Mapping[str, Callable[..., Finding]] = {
    "figure": figure,
    "extremes": extremes,
    "ratios": ratios,
    "growth": growth,
}
