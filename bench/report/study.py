"""The page that the study would be today, as sections: on the terminal, as Markdown with its plots beside, as HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.columns import DASH, Mark, Plot, Section, Table, count
from bench.errors import UserError
from bench.files import check_absent, write_all
from bench.report import console, documents
from bench.run.columns import DISTURBED
from bench.study.api import Study
from bench.study.cells import hardware
from bench.study.claims import BY_HAND, STUDY, Claim
from bench.study.findings import NOT_TESTED, UNDECIDED, Finding, shown
from bench.study.series import TOGETHER, Crossover, Series, pairs, series

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
    commands = [run.command for run in study.runs]
    numbered = [f"file {number}: {command}" for number, command in enumerate(commands, start=1)]
    yield Section("Commands", items=numbered if len(commands) > 1 else commands)
    for part in (STUDY, BY_HAND):
        here = [(number, *found) for number, found in enumerate(study.findings, start=1) if found[0].source == part]
        rows = tuple((str(number), claim.title, found.outcome) for number, claim, found in here)
        yield Section(part, table=Table(("#", "claim", "outcome"), rows, (False, True, True)))
        yield from (_decided(*one) for one in here if one[2].outcome != NOT_TESTED)
    yield _crossovers(study.crossovers)
    yield from (_times(one, "batch") for one in series(study.cells, "batch"))
    yield from (_times(one, "length") for one in series(study.cells, "length") if len(one.sizes) > 1)
    timed = [cell for cell in study.cells if cell.fault and not cell.is_surveyed]
    reasons = Counter(f"{cell.device}, {cell.model}, {cell.backend} {cell.precision}: {cell.fault}" for cell in timed)
    items = [f"{reason} ({count(number, 'cell')})" for reason, number in reasons.items()]
    yield Section("Left out of every claim", items=items)
    yield from _missing(study)


def _machines(study: Study) -> Iterator[str]:
    """Each machine once, with the versions of what ran on it."""
    found: dict[str, None] = {}
    for run in study.runs:
        versions, cpus = run.fingerprint.get("versions", {}), run.fingerprint.get("cpus", "?")
        known = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
        threads = run.options.settled_threads
        found[f"{run.options.kind}: {hardware(run)}, {cpus} CPUs, {threads} threads; {known}"] = None
    yield from found


def _decided(number: int, claim: Claim, found: Finding) -> Section:
    items = [*found.evidence, *([f"note: {found.note}"] if found.note else []), f"rule: {claim.rule}"]
    return Section(f"{number}. {found.outcome.capitalize()}: {claim.title}", (claim.text,), items=items)


def _crossovers(crossovers: Sequence[Crossover]) -> Section:
    title = f"From which batch on runtimes are within {TOGETHER - 1:.0%} of each other"
    if not crossovers:
        return Section(title, ("No run has two runtimes at two batches.",))
    rows = tuple((f"{one.series.name} ({len(one.series.backends)} runtimes)", _batch_of(one)) for one in crossovers)
    lines = "Every pair of runtimes, by whole intervals, and at all larger batches too."
    apart = "; ".join(filter(None, map(_farthest, crossovers)))
    lines += f" Farthest apart at the largest batch: {apart}." if apart else ""
    return Section(title, (lines,), Table(("where", "from batch"), rows))


def _batch_of(one: Crossover) -> str:
    """`32`, `none up to 64`, or what is not decided."""
    batches = list(one.outcomes)
    if one.batch is None:
        word = "not decided at" if one.outcomes[batches[-1]] == UNDECIDED else "none up to"
        return f"{word} {batches[-1]}"
    before = [batch for batch in batches if batch < one.batch]
    doubt = before and one.outcomes[before[-1]] == UNDECIDED
    return f"{one.batch}{f' at the latest; not decided at {before[-1]}' if doubt else ''}"


def _farthest(one: Crossover) -> str:
    """How far apart runtimes are at the largest batch of a series in which they do not come together."""
    size = list(one.outcomes)[-1]
    apart = [(ratio.value, slow, fast) for slow, fast, ratio in pairs(one.series.pick(None, size, size)) if ratio]
    if one.batch is not None or not apart:
        return ""
    ratio, slow, fast = max(apart, key=lambda pair: pair[0])
    return f"{one.series.name}, batch {size}: {fast.backend} is {shown(ratio)}× {slow.backend}"


def _times(one: Series, x: str) -> Section:
    """Milliseconds a sample over batches, or a call over lengths: a row a size, a column a backend; a plot of two."""
    what = "a sample" if x == "batch" else "a call"
    values = {key: cell.sample_ms if x == "batch" else cell.time_ms() for key, cell in one.cells.items()}
    is_disturbed = {key: cell.is_disturbed for key, cell in one.cells.items()}

    def text(key: tuple[str, int]) -> str:
        return f"{DISTURBED if is_disturbed[key] else ''}{shown(values[key].middle)}" if key in values else DASH

    rows = tuple((str(size), *(text((name, size)) for name in one.backends)) for size in one.sizes)
    marks = [
        Mark(name, size, value.middle, *((value.interval.low, value.interval.high) if value.interval else ()))
        for (name, size), value in values.items()
    ]
    title = f"Milliseconds {what}: {one.name}"
    plot = Plot(title, x, f"ms {what}", tuple(marks), is_x_logarithmic=True, is_y_logarithmic=True)
    lines = (f"{DISTURBED} stands before what was disturbed while it was timed.",) if any(is_disturbed.values()) else ()
    table = Table((x, *one.backends), rows, (False,) * (1 + len(one.backends)))
    return Section(title, lines, table, plots=(plot,) if len(one.sizes) > 1 else ())


def _missing(study: Study) -> Iterator[Section]:
    wanted: dict[str, list[str]] = {}
    reasons = []
    for number, (claim, found) in enumerate(study.findings, start=1):
        if found.outcome == NOT_TESTED:
            wanted.setdefault(claim.needs, []).append(str(number))
            reasons += [f"{number}: {line}" for line in found.evidence]
    items = [f"{needs} (claim{'s' if len(of) > 1 else ''} {', '.join(of)})" for needs, of in wanted.items()]
    yield Section("What would test the rest", items=items)
    yield Section("What these runs have of it, which does not suffice", items=reasons)
