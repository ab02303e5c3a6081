"""Sections, all cells, the runs beside each other, options, machine and commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench import statistics
from bench.columns import DASH, Plot, Section, Table, factor, shown
from bench.options import declaration, spelling
from bench.report import parts
from bench.report.page import charts
from bench.report.page.charts import Axis, Chart, Key, Names
from bench.report.page.entries import Chapter, Entry, Number, labels, number, places, point_title
from bench.run import alike, pairs
from bench.run import sections as of_every_run
from bench.run.record import Record, Run

# Sections.


def sections(runs: Sequence[Run], keys: Sequence[Key]) -> list[Chapter]:
    """The sections of every run, but for those that the page draws; those of points are one chapter for each title."""
    found: dict[str, list[tuple[list[str], Section]]] = {}
    leading: dict[str, list[str]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        groups, behind = parts.groups(run)
        drawn = of_every_run.memory(run)
        for section in (*(one for group in groups for one in group.sections), *behind):
            if section == drawn:
                continue
            is_of_point = section.point is not None
            at = [run.workload.row_title(section.point)] if is_of_point else []
            title = section.title or f"At each {run.workload.point_noun}"
            found.setdefault(title, []).append(([*([label] if label else []), *at], section))
            leading[title] = [*(["run"] if label else []), *([parts.point_title(run)] if is_of_point else [])]
    return list(chapters(found, leading, keys))


def chapters(
    found: Mapping[str, Sequence[tuple[Sequence[str], Section]]],
    leading: Mapping[str, Sequence[str]],
    keys: Sequence[Key] = (),
) -> Iterator[Chapter]:
    """A chapter a title: its sections, each with the run and point that it is of, which `leading` are the titles of."""
    anchors: set[str] = set()
    for title, of in found.items():
        anchor = f"section-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')[:40] or 'section'}"
        while anchor in anchors:
            anchor += "-more"
        anchors.add(anchor)
        rows = [(*at, *map(_cell, row)) for at, one in of if one.table is not None for row in one.table.rows]
        drawn = [(at, plot) for at, one in of for plot in one.plots]
        made = [chart_of(plot, keys, f"{anchor}-{index}", at) for index, (at, plot) in enumerate(drawn)]
        titles = next((one.table.titles for _, one in of if one.table is not None), ())
        table = Table((*leading[title], *titles), tuple(rows)) if rows else None
        about, lines = "", [": ".join([*at, line]) for at, one in of for line in (*one.lines, *one.items)]
        if len(of) == 1 and of[0][1].point is None and (rows or not of[0][0]):
            about, lines = " ".join(of[0][1].lines), list(of[0][1].items)
        yield Chapter(anchor, title, about, made, table, lines=lines)


_FIGURE = re.compile(r"([-+]?)!?([0-9][0-9,]*\.?[0-9]*(?:e[-+]?[0-9]+)?)\s*(?:%|×|ms|s)?")


def _cell(text: str) -> str:
    """A cell that is sorted as the figure that it is, if it is one."""
    found = _FIGURE.fullmatch(text)
    return Number(text, float(found[1] + found[2].replace(",", ""))) if found else text


def chart_of(plot: Plot, keys: Sequence[Key], name: str, before: Sequence[str] = ()) -> Chart:
    """What a section has drawn; series that are no candidates have colours of their own."""
    known = {key.label: key for key in keys}
    series = list(dict.fromkeys(mark.series for mark in plot.marks))
    its_own = tuple(known[one] for one in series) if set(series) <= set(known) else charts.legend(series)
    data = []
    for mark in plot.marks:
        ends: dict[str, Any] = {} if mark.low is None or mark.high is None else {"low": mark.low, "high": mark.high}
        texts = {"x_text": mark.x if isinstance(mark.x, str) else shown(mark.x), "y_text": shown(float(mark.y))}
        data.append({"name": mark.series, "x": mark.x, "y": mark.y, "is_sound": True} | ends | texts)
    x: Axis | Names = Axis("x", plot.x, plot.is_x_logarithmic)
    if any(isinstance(mark.x, str) for mark in plot.marks):
        x = Names("x", plot.x, list(dict.fromkeys(str(mark.x) for mark in plot.marks)))
    title = ": ".join([*before, plot.title])
    told = {"name": "series", "x_text": plot.x, "y_text": plot.y}
    y = Axis("y", plot.y, plot.is_y_logarithmic)
    return charts.chart(name, f"{title}: {plot.y} over {plot.x}.", data, its_own, x, y, told, title)


# All cells.


def results(of: Sequence[Entry]) -> Chapter:
    """Every cell in one table, which the reader sorts and filters."""
    if not of:
        return Chapter("cells", "All cells", "No cell has its record yet.", table=Table(("backend",), ()))
    run = of[0].run
    own = [column for column in run.workload.columns if column.title]
    further = [column for column in run.workload.all_columns if column.title and column not in own]
    first, *others = sorted((*own, *further), key=lambda column: column.is_on_request)
    columns = [one for one in others if any(entry.figures[one.name] is not None for entry in of)]
    if not all(entry.is_measured for entry in of) or any(entry.figures[first.name] is not None for entry in of):
        columns.insert(0, first)
    about = (
        "Click a title to sort by it; point at one to see what it means. A ! before a figure: the cell was disturbed, "
        "as the warnings say."
    )
    rows = tuple((entry.at, entry.name, *map(entry.text, columns)) for entry in of)
    titles = (point_title(of), "backend", *map(parts.title, columns))
    helps = ("", "", *(column.help for column in columns))
    return Chapter("cells", "All cells", about, table=Table(titles, rows), helps=helps)


# Several runs.


def beside_each_other(runs: Sequence[Run], of: Sequence[Entry]) -> Chapter | None:
    """The median of each cell in every run, and the last over the first; None for a single run."""
    if len(runs) == 1:
        return None
    lines = [
        f"{label}: {run.path.name if run.path else 'in memory'}, started {run.started}, {run.model.name} on "
        f"{run.options.device}, {len(run.records)} cells"
        for run, label in zip(runs, labels(runs), strict=True)
    ]
    for run, label in zip(runs[1:], labels(runs)[1:], strict=True):
        if differing := alike.differences(runs[0], run):
            lines.append(f"not the same in run 1 and {label}: {', '.join(differing)}")
    rows = []
    for first in places(of):
        for candidate in dict.fromkeys(entry.record.candidate for entry in of if entry.place == first.place):
            cells = [run.record(first.point, candidate) for run in runs]
            timed = [one if one is not None and one.is_timed else None for one in cells]
            medians = [number(None if one is None else statistics.median(one.samples) / 1e6) for one in timed]
            rows.append((first.at, runs[0].name(candidate), *medians, _change([one for one in timed if one])))
    about = (
        "Medians of the same cell in each run, in ms, and the last run's over the first's with its "
        f"{statistics.RATIO_CONFIDENCE:.0%} interval. What differs between the runs stands first."
    )
    titles = (parts.point_title(runs[0]), "backend", *(f"{label}, ms" for label in labels(runs)), "last over first")
    return Chapter("runs", "The runs beside each other", about, table=Table(titles, tuple(rows)), lines=lines)


def _change(timed: Sequence[Record]) -> str:
    """The last over the first that there is, if two are."""
    ratio = pairs.ratio_apart(timed[-1], timed[0]) if len(timed) > 1 else None
    if ratio is None:
        return DASH
    ends = ratio.interval
    return number(ratio.value, f"{factor(ratio.value)} {factor(ends.low)}–{factor(ends.high)}" if ends else None)


# Provenance.


def machine(runs: Sequence[Run]) -> Chapter:
    """The options and the fingerprint of each run, one line a fact."""
    columns = [dict(_flat(run.fingerprint)) | dict(_of_the_run(run)) for run in runs]
    names = dict.fromkeys(name for facts in columns for name in facts)
    rows = tuple((name, *(facts.get(name, DASH) for facts in columns)) for name in names)
    table = Table(("fact", *(label or "value" for label in labels(runs))), rows)
    return Chapter("machine", "Machine, options and fingerprint", table=table, table_title="all facts")


def _of_the_run(run: Run) -> Iterator[tuple[str, str]]:
    yield "started", run.started
    yield "weights", run.model.origin
    yield "checkpoint", run.model.checkpoint
    yield "file", {"sealed": "as it was written", "cut": "without a seal", "altered": "altered"}[run.integrity]
    yield "schema", str(run.schema)
    for one in run.options.declared():
        value = getattr(run.options, one.name)
        is_plain = value is None or isinstance(value, bool)
        yield spelling(one.name), shown(value) if is_plain else declaration(one).show(value) or DASH
    if run.peaks is not None:
        for precision, rate in run.peaks.flops_per_second.items():
            yield f"measured peak, {precision}", f"{shown(rate / 1e9)} GFLOP/s"
        for size, rate in run.peaks.bandwidths:
            yield f"measured bandwidth, {size / 2**20:.0f} MiB", f"{shown(rate / 1e9)} GB/s"
    for name, value in run.notes.items():
        if not isinstance(value, Mapping | list):
            yield f"noted {name.replace('_', ' ')}", shown(value)


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        of_list: Iterable[Any] = value if isinstance(value, list) else ()
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif any(isinstance(entry, Mapping) for entry in of_list):
            for index, entry in enumerate(of_list):
                yield from _flat(entry if isinstance(entry, Mapping) else {"": entry}, f"{before}{name} {index} ")
        elif isinstance(value, list):
            yield f"{before}{name}", " ".join(map(str, value)) or "none"
        else:
            yield f"{before}{name}", DASH if value is None else str(value)


def commands(runs: Sequence[Run], of: Sequence[Entry]) -> Chapter:
    """The command of each run, and of each cell alone."""
    lines = [": ".join(filter(None, (label, run.command))) for run, label in zip(runs, labels(runs), strict=True)]
    rows = tuple((entry.at, entry.name, entry.run.repeat(entry.record)) for entry in of)
    about = "The commands that measured this; below, those that repeat one cell alone."
    table = Table((parts.point_title(runs[0]), "backend", "command"), rows) if rows else None
    return Chapter("commands", "Commands", about, table=table, table_title="the command of each cell", lines=lines)
