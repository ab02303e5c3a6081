"""The page that the study would be today, as sections: on the terminal, as Markdown with its plots beside, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.columns import DASH, Mark, Plot, Section, Table, count
from bench.errors import UserError
from bench.files import check_absent, write_all
from bench.report import console, documents
from bench.run.columns import DISTURBED
from bench.statistics import Interval
from bench.study.api import Study
from bench.study.claims import BY_HAND, STUDY, Claim
from bench.study.figures import Figure, Generation
from bench.study.findings import NOT_TESTED, UNDECIDED, Finding, shown
from bench.study.series import TOGETHER, Crossover, Series, over_batches, over_lengths

TITLE = "What the study would be today"
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "runtimebench")
NEW_SINCE = (
    "What the study left out is part of every figure here: clocks wait for the device, warm-up ends when calls are "
    "steady, medians have intervals, threads and processor are recorded, every backend was checked to be still the "
    "same model, and copies are timed for none."
)
SUFFIXES = (".md", ".html")
#: Formats of the plots beside a Markdown page.
PLOTS = ("svg", "png", "none")


# The files.


def text(study: Study) -> str:
    """The page for a terminal."""
    return console.render_sections(heading(study), sections(study))


def check(output: Path, plots: str | None) -> None:
    """Raise UserError for a page that has no known suffix or whose place is taken, and for plots that cannot be."""
    from bench.report.page import render

    if plots is not None and plots not in PLOTS:
        raise UserError(f"unknown plots {plots[:40]!r}; use one of {', '.join(PLOTS)}")
    if output.suffix not in SUFFIXES:
        raise UserError(f"--output {str(output)[:80]!r} ends neither in .md nor in .html; give e.g. page.md")
    check_absent(output, "--output")
    if output.suffix == ".html" or plots in ("svg", "png"):
        render.check_available(f"--output {output.name}" if output.suffix == ".html" else f"--plots {plots}")


def write_study(study: Study, output: str | Path, plots: str | None = None) -> list[Path]:
    """Write the page to `output`, Markdown or HTML by its suffix; returns every file that was written, the page last.

    `plots` of a Markdown page are files beside it: "svg", "png", "none", or None for SVG if the extra `page` is
    installed. Raises UserError if something is in the way, BenchError if it cannot be written.
    """
    from bench.report.page import render

    path = Path(output)
    check(path, plots)
    if path.suffix == ".html":
        write_all({path: render.of_sections(TITLE, heading(study), list(sections(study))).encode()})
        return [path]
    files: dict[Path, bytes] = {}
    shown_sections = list(sections(study))
    format_ = plots or ("svg" if render.is_available() else "none")
    for index, section in enumerate(shown_sections if format_ != "none" else []):
        names = []
        for plot in section.plots:
            name = f"{path.stem}-{len(files) + 1}.{format_}"
            files[path.with_name(name)] = render.of_plot(plot, format_)
            names.append(f"![{plot.title}]({name})")
        shown_sections[index] = replace(section, lines=(*section.lines, *names))
    for place in files:
        check_absent(place, "--output")
    files[path] = documents.sections_as_markdown(TITLE, heading(study), shown_sections).encode()
    write_all(files)
    return list(files)


# What stands on it.


def heading(study: Study) -> list[str]:
    """How many claims came to what, and how to read it."""
    counts = ", ".join(f"{number} {outcome}" for outcome, number in study.counts.items() if number)
    rule = f"An outcome is drawn from whole intervals: if a threshold lies within one, the claim is {UNDECIDED}."
    return [f"{len(study.findings)} claims: {counts}. {rule} {NEW_SINCE}"]


def sections(study: Study) -> Iterator[Section]:
    """The whole page below its heading, in order."""
    yield Section("Machine and runs", items=[*_machines(study), *study.remarks])
    has_many = len(study.figures.sources) > 1
    yield Section(
        "Commands",
        items=[
            f"file {number}: {source.command}" if has_many else source.command
            for number, source in enumerate(study.figures.sources, start=1)
        ],
    )
    numbered = list(enumerate(study.findings, start=1))
    for part in (STUDY, BY_HAND):
        here = [(number, claim, found) for number, (claim, found) in numbered if claim.source == part]
        rows = tuple((str(number), claim.title, found.outcome) for number, claim, found in here)
        yield Section(part, table=Table(("#", "claim", "outcome"), rows, (False, True, True)))
        for number, claim, found in here:
            if found.outcome != NOT_TESTED:
                yield _decided(number, claim, found)
    yield _crossovers(study.crossovers)
    for series in over_batches(study.figures):
        yield _over_batches(series)
    for series in over_lengths(study.figures):
        if len(series.sizes) > 1:
            yield _over_lengths(series)
    yield _left_out(study)
    yield from _missing(study)


def _machines(study: Study) -> Iterator[str]:
    """Each machine once, with the versions of what ran on it."""
    found: dict[str, None] = {}
    for source in study.figures.sources:
        versions = source.fingerprint.get("versions", {})
        known = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
        cpus = source.fingerprint.get("cpus", "?")
        found[f"{source.device}: {source.hardware}, {cpus} CPUs, {source.threads} threads; {known}"] = None
    yield from found


def _decided(number: int, claim: Claim, found: Finding) -> Section:
    items = [*found.evidence, *([f"note: {found.note}"] if found.note else []), f"rule: {claim.rule}"]
    return Section(f"{number}. {found.outcome.capitalize()}: {claim.title}", (claim.text,), items=items)


def _crossovers(crossovers: Sequence[Crossover]) -> Section:
    title = f"From which batch on runtimes are within {TOGETHER - 1:.0%} of each other"
    if not crossovers:
        return Section(title, ("No run has two runtimes at two batches.",))
    rows = tuple((f"{one.series.name} ({len(one.series.backends)} runtimes)", _batch_of(one)) for one in crossovers)
    rule = "Every pair of runtimes, by whole intervals, and at all larger batches too."
    return Section(title, (f"{rule} {_farthest(crossovers)}".strip(),), Table(("where", "from batch"), rows))


def _batch_of(one: Crossover) -> str:
    """`32`, `none up to 64`, or what is not decided."""
    batches = list(one.outcomes)
    largest = one.outcomes[batches[-1]]
    if one.batch is None:
        return f"none up to {batches[-1]}" if largest != UNDECIDED else f"not decided at {batches[-1]}"
    before = [batch for batch in batches if batch < one.batch]
    doubt = before and one.outcomes[before[-1]] == UNDECIDED
    return f"{one.batch}{f' at the latest; not decided at {before[-1]}' if doubt else ''}"


def _farthest(crossovers: Sequence[Crossover]) -> str:
    """How far apart the runtimes are at the largest batch of each series that does not come together."""
    found = []
    for one in crossovers:
        if one.batch is not None:
            continue
        size = list(one.outcomes)[-1]
        pairs = [(slow, fast, ratio) for slow, fast, ratio in one.series.ratios(size) if ratio is not None]
        if pairs:
            slow, fast, ratio = max(pairs, key=lambda pair: pair[2].value)
            found.append(f"{one.series.name}, batch {size}: {fast} is {shown(ratio.value)}× {slow}")
    return f"Farthest apart at the largest batch: {'; '.join(found)}." if found else ""


def _over_batches(series: Series) -> Section:
    figures = {key: (cell.ms_per_sample, cell.sample_interval_ms) for key, cell in series.cells.items()}
    return _figures(f"Milliseconds a sample: {series.name}", series, "batch", "ms a sample", figures)


def _over_lengths(series: Series) -> Section:
    figures = {key: (cell.ms, cell.interval_ms) for key, cell in series.cells.items()}
    return _figures(f"Milliseconds a call: {series.name}", series, "length", "ms a call", figures)


def _figures(
    title: str, series: Series, x: str, y: str, figures: dict[tuple[str, int], tuple[float, Interval | None]]
) -> Section:
    """A row a batch or length and a column a backend, and the same as a plot if there are two sizes."""
    rows = []
    for size in series.sizes:
        cells = [(series.cells.get((name, size)), figures.get((name, size))) for name in series.backends]
        rows.append((str(size), *(_time(cell, figure) for cell, figure in cells)))
    marks = tuple(
        Mark(name, size, ms, interval.low if interval else None, interval.high if interval else None)
        for (name, size), (ms, interval) in figures.items()
    )
    plots = (Plot(title, x, y, marks, is_x_logarithmic=True, is_y_logarithmic=True),) if len(series.sizes) > 1 else ()
    is_disturbed = any(cell.is_disturbed for cell in series.cells.values())
    lines = (f"{DISTURBED} stands before what was disturbed while it was timed.",) if is_disturbed else ()
    table = Table((x, *series.backends), tuple(rows), (False,) * (1 + len(series.backends)))
    return Section(title, lines, table, plots=plots)


def _time(cell: Figure | None, figure: tuple[float, Interval | None] | None) -> str:
    if cell is None or figure is None:
        return DASH
    return f"{DISTURBED if cell.is_disturbed else ''}{shown(figure[0])}"


def _left_out(study: Study) -> Section:
    reasons: dict[str, int] = {}
    measured: list[Figure | Generation] = [*study.figures.cells, *study.figures.generations]
    for cell in measured:
        if not cell.is_usable:
            key = f"{cell.source.device}, {cell.model}, {cell.backend} {cell.precision}: {cell.fault or cell.status}"
            reasons[key] = reasons.get(key, 0) + 1
    items = [f"{key} ({count(number, 'cell')})" for key, number in reasons.items()]
    return Section("Left out of every claim", items=items)


def _missing(study: Study) -> Iterator[Section]:
    wanted: dict[str, list[str]] = {}
    reasons = []
    for number, (claim, found) in enumerate(study.findings, start=1):
        if found.outcome == NOT_TESTED:
            wanted.setdefault(claim.needs, []).append(str(number))
            reasons += [f"{number}: {line}" for line in found.evidence]
    items = [
        f"{needs} (claim{'s' if len(numbers) > 1 else ''} {', '.join(numbers)})" for needs, numbers in wanted.items()
    ]
    yield Section("What would test the rest", items=items)
    yield Section("What these runs have of it, which does not suffice", items=reasons)
