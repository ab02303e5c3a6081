"""Sections, all cells, the runs beside each other, options, machine and commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import statistics
from bench.columns import DASH, Plot, Section, factor, shown
from bench.options import declaration, spelling
from bench.report import parts
from bench.report.page import charts
from bench.report.page.chapters import Chapter
from bench.report.page.charts import Axis, Chart, Key
from bench.report.page.entries import Entry, as_number, labels, places
from bench.report.page.tables import DASH as NOTHING
from bench.report.page.tables import TONES, Cell, Table, number, table
from bench.run import alike
from bench.run import sections as of_every_run
from bench.run.record import Record, Run

# The sections of the runs.


def sections(runs: Sequence[Run], keys: Sequence[Key]) -> list[Chapter]:
    """The sections of every run, but for those that the page draws; those of points are one chapter for each title."""
    found: dict[str, list[tuple[str, Run, Section]]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        groups, behind = parts.groups(run)
        drawn = of_every_run.memory(run)
        for section in (*(one for group in groups for one in group.sections), *behind):
            if section != drawn:
                found.setdefault(section.title, []).append((label, run, section))
    anchors: set[str] = set()
    return [_chapter(title, of, keys, anchors) for title, of in found.items()]


def _chapter(title: str, of: Sequence[tuple[str, Run, Section]], keys: Sequence[Key], anchors: set[str]) -> Chapter:
    """Sections of one title, of points and runs, as one chapter."""
    run = of[0][1]
    is_of_points = any(section.point is not None for _, _, section in of)
    title = title or f"At each {run.workload.point_noun}"
    anchor = _anchor(title, anchors)
    lines: list[str] = []
    rows: list[list[Cell | str]] = []
    made: list[Chart] = []
    titles: tuple[str, ...] = ()
    for label, one, section in of:
        at = "" if section.point is None else one.workload.row_title(section.point)
        before = [word for word in (label, at) if word]
        lines += [": ".join([*before, line]) for line in (*section.lines, *section.items)]
        if section.table is not None:
            titles = titles or section.table.titles
            leading = [*([label] if label else []), *([at] if is_of_points else [])]
            rows += [[*leading, *map(_cell, row)] for row in section.table.rows]
        for plot in section.plots:
            made.append(chart_of(plot, keys, f"{anchor}-{len(made)}", before))
    leading_titles = [*(["run"] if of[0][0] else []), *([parts.point_title(run)] if is_of_points else [])]
    found = table((*leading_titles, *titles), rows) if rows else None
    about = ""
    if rows and not is_of_points and len(of) == 1:
        about, lines = " ".join(of[0][2].lines), list(of[0][2].items)
    legend = tuple(dict.fromkeys(key for chart in made for key in chart.legend))
    return Chapter(anchor, title, about, tuple(made), legend, found, lines=tuple(lines))


def chapter_of(section: Section, anchors: set[str]) -> Chapter:
    """A section that is of no run; `anchors` are those of the chapters before it."""
    anchor = _anchor(section.title, anchors)
    made = tuple(chart_of(plot, (), f"{anchor}-{at}") for at, plot in enumerate(section.plots))
    found = section.table
    rows = [[_cell(text) for text in row] for row in found.rows] if found else []
    return Chapter(
        anchor,
        section.title,
        " ".join(section.lines),
        made,
        tuple(dict.fromkeys(key for chart in made for key in chart.legend)),
        table(found.titles, rows) if found and rows else None,
        lines=tuple(section.items),
    )


def _anchor(title: str, taken: set[str]) -> str:
    """A name for links to a chapter that no other has."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "section"
    name = f"section-{plain}"
    while name in taken:
        name += "-more"
    taken.add(name)
    return name


_FIGURE = re.compile(r"[-+!]?([0-9][0-9,]*\.?[0-9]*(?:e[-+]?[0-9]+)?)\s*(?:%|×|ms|s)?")


def _cell(text: str) -> Cell:
    """A cell that is sorted as the figure that it is, if it is one."""
    found = _FIGURE.fullmatch(text)
    return Cell(text, float(found[1].replace(",", ""))) if found else Cell(text, tone=TONES.get(text, ""))


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
    hover = {"name": "series", "x_text": plot.x, "y_text": plot.y}
    y = Axis("y", plot.y, plot.is_y_logarithmic)
    title = ": ".join([*before, plot.title])
    if any(isinstance(mark.x, str) for mark in plot.marks):
        order = list(dict.fromkeys(str(mark.x) for mark in plot.marks))
        spec = charts.points(data, its_own, charts.ordinal("x", plot.x, order), y, hover) | {"title": title}
    else:
        spec = charts.lines(data, its_own, Axis("x", plot.x, plot.is_x_logarithmic), y, hover, title)
    return Chart(name, f"{title}: {plot.y} over {plot.x}.", spec, its_own)


# All cells.


def results(of: Sequence[Entry]) -> Chapter:
    """Every cell in one table, which the reader sorts and filters."""
    run = of[0].run if of else None
    about = (
        "Click a title to sort by it; point at one to see what it means. A ! before a figure: the cell was disturbed, "
        "as the warnings say."
    )
    if run is None:
        return Chapter("cells", "All cells", "No cell has its record yet.", table=table(("backend",), []))
    own = [column for column in run.workload.columns if column.title]
    further = [column for column in run.workload.all_columns if column.title and column not in own]
    ordered = sorted((*own, *further), key=lambda column: column.is_on_request)
    shown_columns = [
        column
        for column in ordered
        if any(entry.figures[column.name] is not None for entry in of)
        or (column is ordered[0] and not all(entry.is_measured for entry in of))
    ]
    rows = []
    for entry in of:
        cells = [entry.at_cell, Cell(entry.name)]
        for column in shown_columns:
            text, value = entry.text(column), as_number(entry.figures[column.name])
            tone = "bad" if not entry.is_measured and text == entry.record.status else TONES.get(text, "")
            cells.append(Cell(text, value, tone))
        rows.append(cells)
    titles = (parts.point_title(run), "backend", *map(parts.title, shown_columns))
    helps = ("", "", *(column.help for column in shown_columns))
    return Chapter("cells", "All cells", about, table=table(titles, rows, helps))


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
        here = [entry for entry in of if entry.place == first.place]
        for candidate in dict.fromkeys(entry.record.candidate for entry in here):
            cells = [_record(run, first.point, candidate) for run in runs]
            medians = [NOTHING if one is None else _median(one) for one in cells]
            rows.append([first.at_cell, runs[0].name(candidate), *medians, _change(cells)])
    about = (
        "Medians of the same cell in each run, in ms, and the last run's over the first's with its "
        f"{statistics.RATIO_CONFIDENCE:.0%} interval. What differs between the runs stands first."
    )
    titles = (parts.point_title(runs[0]), "backend", *(f"{label}, ms" for label in labels(runs)), "last over first")
    return Chapter("runs", "The runs beside each other", about, table=table(titles, rows), lines=tuple(lines))


def _record(run: Run, point: Any, candidate: Any) -> Record | None:
    record = run.record(point, candidate)
    return record if record is not None and record.status == "ok" and record.samples else None


def _median(record: Record) -> Cell:
    ms = statistics.median(record.samples) / 1e6
    return number(ms)


def _change(cells: Sequence[Record | None]) -> Cell:
    """The last over the first that there is, if two are."""
    there = [record for record in cells if record is not None]
    if len(there) < 2:
        return NOTHING
    ratio = statistics.ratio_of_runs(there[-1].rounds, there[0].rounds)
    if ratio is None:
        return NOTHING
    ends = ratio.interval
    return number(ratio.value, f"{factor(ratio.value)} {factor(ends.low)}–{factor(ends.high)}" if ends else None)


# Provenance.


def machine(runs: Sequence[Run]) -> Chapter:
    """The options and the fingerprint of each run, one line a fact."""
    columns = [dict(_flat(run.fingerprint)) | _of_the_run(run) for run in runs]
    names = list(dict.fromkeys(name for facts in columns for name in facts))
    rows = [[name, *(facts.get(name, DASH) for facts in columns)] for name in names]
    titles = ("fact", *(label or "value" for label in labels(runs)))
    return Chapter("machine", "Machine, options and fingerprint", table=table(titles, rows), table_title="all facts")


def _of_the_run(run: Run) -> dict[str, str]:
    facts = {
        "started": run.started,
        "weights": run.model.origin,
        "checkpoint": run.model.checkpoint,
        "file": {"sealed": "as it was written", "cut": "without a seal", "altered": "altered"}[run.integrity],
        "schema": str(run.schema),
    }
    for one in run.options.declared():
        value = getattr(run.options, one.name)
        is_plain = value is None or isinstance(value, bool)
        facts[spelling(one.name)] = shown(value) if is_plain else declaration(one).show(value) or DASH
    if run.peaks is not None:
        for precision, rate in run.peaks.flops_per_second.items():
            facts[f"measured peak, {precision}"] = f"{shown(rate / 1e9)} GFLOP/s"
        for size, rate in run.peaks.bandwidths:
            facts[f"measured bandwidth, {size / 2**20:.0f} MiB"] = f"{shown(rate / 1e9)} GB/s"
    noted = {name: value for name, value in run.notes.items() if not isinstance(value, Mapping | list)}
    return facts | {f"noted {name.replace('_', ' ')}": shown(value) for name, value in noted.items()}


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            for index, entry in enumerate(value):
                yield from _flat(entry if isinstance(entry, Mapping) else {"": entry}, f"{before}{name} {index} ")
        elif isinstance(value, list):
            yield f"{before}{name}", " ".join(map(str, value)) or "none"
        else:
            yield f"{before}{name}", DASH if value is None else str(value)


def commands(runs: Sequence[Run], of: Sequence[Entry]) -> Chapter:
    """The command of each run, and of each cell alone."""
    lines = tuple(
        f"{label}: {run.command}" if label else run.command for run, label in zip(runs, labels(runs), strict=True)
    )
    rows = [[entry.at_cell, entry.name, entry.run.repeat(entry.record)] for entry in of]
    about = "The commands that measured this; below, those that repeat one cell alone."
    made: Table | None = None
    if rows:
        made = table((parts.point_title(runs[0]), "backend", "command"), rows)
    return Chapter("commands", "Commands", about, table=made, table_title="the command of each cell", lines=lines)
