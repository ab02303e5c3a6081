"""What stands on the page, as blocks that Markdown and HTML render alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.study.claims import BY_HAND, STUDY, Claim, shown
from bench.study.figures import Figure, Generation
from bench.study.findings import NOT_TESTED, UNDECIDED, Finding
from bench.study.series import TOGETHER, Crossover, Series, over_batches

if TYPE_CHECKING:
    from bench.study.api import Study

LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "runtimebench")
TITLE = "What the study would be today"
#: Backends beside each other in a table of milliseconds, so that it stays within 80 columns.
BACKENDS_OF_A_TABLE = 5
TAINTED = "!"
NEW_SINCE = (
    "What the study left out is part of every figure here: clocks wait for the device, warm-up ends when calls are "
    "steady, medians have intervals, threads and processor are recorded, every backend was checked to be still the "
    "same model, and copies are timed for none."
)


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; a bold beginning where `lead` is given."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Items:
    """A list."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under titles; columns whose titles are in `right` hold numbers."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Image:
    """A plot; `content` is what the file holds, `media_type` what it is."""

    name: str
    """Of its file beside a Markdown page."""
    text: str
    """Said where it cannot be seen."""
    content: bytes
    media_type: str


Block = Heading | Paragraph | Items | Table | Commands | Image


def blocks(study: Study, images: Sequence[Image] = ()) -> list[Block]:
    """The whole page, in order."""
    return [
        Heading(1, TITLE),
        Paragraph(_summary(study)),
        *_machine(study),
        *_claims(study),
        *_crossovers(study.crossovers),
        *_plots(images),
        *_times(study),
        *_left_out(study),
        *_missing(study),
    ]


def _summary(study: Study) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in study.counts.items() if count)
    return (
        f"{len(study.findings)} claims: {counts}. An outcome is drawn from whole intervals: where a threshold lies "
        f"within one, the claim is {UNDECIDED}. {NEW_SINCE}"
    )


def _machine(study: Study) -> Iterator[Block]:
    sources = study.figures.sources
    yield Heading(2, "Machine and runs")
    facts: dict[str, None] = {}
    for source in sources:
        versions = source.fingerprint.get("versions", {})
        known = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
        cpus = source.fingerprint.get("cpus", "?")
        facts[f"{source.device}: {source.hardware}, {cpus} CPUs, {source.threads} threads; {known}"] = None
    yield Items(tuple(facts))
    yield Paragraph("The files come from these commands:")
    has_many = len(sources) > 1
    yield Commands(
        tuple(
            f"{source.command}{f'  # file {number}' if has_many else ''}"
            for number, source in enumerate(sources, start=1)
        )
    )
    if study.remarks:
        yield Items(study.remarks)


def _claims(study: Study) -> Iterator[Block]:
    numbered = list(enumerate(study.findings, start=1))
    for source in (STUDY, BY_HAND):
        here = [(number, claim, found) for number, (claim, found) in numbered if claim.source == source]
        yield Heading(2, source)
        rows = tuple((str(number), claim.title, found.outcome) for number, claim, found in here)
        yield Table(("#", "claim", "outcome"), rows, frozenset(("#",)))
        for number, claim, found in here:
            if found.outcome != NOT_TESTED:
                yield from _decided(number, claim, found)


def _decided(number: int, claim: Claim, found: Finding) -> Iterator[Block]:
    yield Paragraph(claim.text, lead=f"{number}. {found.outcome.capitalize()}.")
    yield Items((*found.evidence, *([f"note: {found.note}"] if found.note else []), f"rule: {claim.rule}"))


def _crossovers(crossovers: Sequence[Crossover]) -> Iterator[Block]:
    yield Heading(2, f"From which batch on runtimes are within {TOGETHER - 1:.0%} of each other")
    if not crossovers:
        yield Paragraph("No run has two runtimes at two batches.")
        return
    rows = tuple((_place(one.series), _batch_of(one)) for one in crossovers)
    yield Table(("where", "from batch"), rows)
    rule = "Every pair of runtimes, by whole intervals, and at all larger batches too."
    yield Paragraph(f"{rule} {_farthest(crossovers)}".strip())


def _place(series: Series) -> str:
    return f"{series.name} ({len(series.backends)} runtimes)"


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
    parts = []
    for one in crossovers:
        if one.batch is not None:
            continue
        size = list(one.outcomes)[-1]
        pairs = [(slow, fast, ratio) for slow, fast, ratio in one.series.ratios(size) if ratio is not None]
        if pairs:
            slow, fast, ratio = max(pairs, key=lambda pair: pair[2].value)
            parts.append(f"{one.series.name}, batch {size}: {fast} is {shown(ratio.value)}× {slow}")
    return f"Farthest apart at the largest batch: {'; '.join(parts)}." if parts else ""


def _plots(images: Sequence[Image]) -> Iterator[Block]:
    if images:
        yield Heading(2, "Plots")
        yield from images


def _times(study: Study) -> Iterator[Block]:
    found = over_batches(study.figures)
    if not found:
        return
    yield Heading(2, "Milliseconds a sample")
    is_tainted = False
    for series in found:
        yield Paragraph("", lead=series.name)
        for start in range(0, len(series.backends), BACKENDS_OF_A_TABLE):
            names = series.backends[start : start + BACKENDS_OF_A_TABLE]
            rows = []
            for batch in series.sizes:
                here = series.at(batch)
                is_tainted = is_tainted or any(cell.is_tainted for cell in here.values())
                rows.append((str(batch), *(_time(here.get(name)) for name in names)))
            yield Table(("batch", *names), tuple(rows), frozenset(("batch", *names)))
    if is_tainted:
        yield Paragraph(f"{TAINTED} stands before what was disturbed while it was timed.")


def _time(cell: Figure | None) -> str:
    if cell is None:
        return "–"
    return f"{TAINTED if cell.is_tainted else ''}{shown(cell.ms_per_sample)}"


def _left_out(study: Study) -> Iterator[Block]:
    reasons: dict[str, int] = {}
    measured: list[Figure | Generation] = [*study.figures.cells, *study.figures.generations]
    for cell in measured:
        if cell.is_usable:
            continue
        why = cell.fault or cell.status
        key = f"{cell.source.device}, {cell.model}, {cell.backend} {cell.precision}: {why}"
        reasons[key] = reasons.get(key, 0) + 1
    if reasons:
        yield Heading(2, "Left out of every claim")
        yield Items(tuple(f"{key} ({count} cell{'s' if count > 1 else ''})" for key, count in reasons.items()))


def _missing(study: Study) -> Iterator[Block]:
    wanted: dict[str, list[str]] = {}
    reasons = []
    for number, (claim, found) in enumerate(study.findings, start=1):
        if found.outcome == NOT_TESTED:
            wanted.setdefault(claim.needs, []).append(str(number))
            reasons += [f"{number}: {line}" for line in found.evidence]
    if not wanted:
        return
    yield Heading(2, "What would test the rest")
    yield Items(
        tuple(
            f"{needs} (claim{'s' if len(numbers) > 1 else ''} {', '.join(numbers)})"
            for needs, numbers in wanted.items()
        )
    )
    if reasons:
        yield Paragraph("What these runs have of it, which does not suffice:")
        yield Items(tuple(reasons))
