"""What a run over a corpus says: time a sentence, padding, lengths, compiled shapes, and sentences one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import DASH, Column, Section, Table, factor, percent
from bench.errors import UserError
from bench.packing import UNSORTED, Packed, Packing, Summary
from bench.run import columns, sections
from bench.run.record import WALL, Record, Run, Turn, is_unsteady, ratio_between
from bench.run.warnings import WIDE_SPREAD
from bench.run.workload import Workload
from bench.spec import Candidate

if TYPE_CHECKING:
    from bench.workloads.corpus import CorpusOptions
    from exporters.sources import ModelSource

BATCH_1 = Packing(1, UNSORTED)
#: Characters of a histogram's longest bar.
BAR = 40
#: Ties with the fastest of all that its line names.
MOST_NAMED = 3

# Sentences one by one, in this run and in one on the CPU.


@dataclass(frozen=True)
class OneByOne:
    """Eager at batch 1, unsorted, in a run on the CPU over the same sentences."""

    candidate: Candidate
    rounds_ns: tuple[tuple[int, ...], ...]
    """Of whole passes, by turn."""
    verdict: str
    is_judged: bool
    cpu: str
    threads: int
    started: str

    @property
    def record(self) -> Record:
        """As a record."""
        turns = tuple(Turn(number, {WALL: list(round_)}) for number, round_ in enumerate(self.rounds_ns))
        parity = {"verdict": self.verdict} if self.verdict else {}
        return Record(BATCH_1, self.candidate, "ok", turns=turns, parity=parity, is_judged=self.is_judged)


def run_in(path: str, option: str) -> Run:
    """The run over a corpus in a file that `option` names; raises UserError for anything else."""
    from bench.run.file import read_run

    found = read_run(path)
    if found.workload.point_type is not Packing:
        raise UserError(f"{option} {path!r} is no run of bench corpus; give a file that it wrote")
    return found


def read_one_by_one(path: str, options: CorpusOptions, source: ModelSource) -> OneByOne:
    """Eager at batch 1 of a run, held against settled `options`; raises UserError for another corpus or model."""
    other = run_in(path, "--cpu-run")
    theirs = other.workload.options
    if theirs.kind != "cpu":
        raise UserError(f"--cpu-run {path!r} was measured on {theirs.kind}; give a run on the CPU")
    for name, mine, its in (
        ("corpus", options.corpus.checksum, theirs.corpus.checksum),
        ("model", source.name, other.model.name),
        ("task", source.task, other.model.task),
        ("weights", source.origin.partition(";")[0], other.model.origin.partition(";")[0]),
        ("boundary", options.boundary, theirs.boundary),
        ("bucket", options.multiple(UNSORTED), theirs.multiple(UNSORTED)),
        ("precision", options.precisions[0], theirs.precisions[0]),
    ):
        if mine != its:
            raise UserError(f"--cpu-run {path!r} is of another {name} ({its} and {mine}); measure it alike")
    candidate = next((one for one in other.candidates if one.label == "eager"), other.baseline_candidate)
    found = other.record(BATCH_1, candidate)
    if found is None or found.status != "ok":
        raise UserError(
            f"--cpu-run {path!r} has no {candidate.label} at batch 1, unsorted; measure that on the CPU first"
        )
    if found.is_judged and candidate.label != "eager":
        raise UserError(f"--cpu-run {path!r} has no eager, only {candidate.label}; measure eager there too")
    rounds = tuple(map(tuple, found.rounds))
    cpu = str(other.fingerprint.get("cpu", ""))
    return OneByOne(candidate, rounds, found.verdict, found.is_judged, cpu, theirs.settled_threads, other.started)


def ratio_to_batch_1(run: Run, record: Record) -> statistics.Ratio | None:
    """Times faster a sentence than the baseline at batch 1: of medians apart, unless it is the same packing."""
    one = run.record(BATCH_1, run.baseline_candidate)
    return ratio_between(one, record) if one is not None and run.may_compare(one, record) else None


def ratio_to_cpu(run: Run, record: Record) -> statistics.Ratio | None:
    """Times faster a sentence than eager at batch 1 on the CPU, from medians apart; None without such a run."""
    found = run.workload.options.one_by_one
    if found is None or not run.may_compare(found.record, record):
        return None
    return statistics.ratio_of_runs(found.record.rounds, record.rounds)


# Figures.


def _of_corpus(name: str, value: Callable[[Summary, Packed], Any], **more: Any) -> Column:
    """A figure of the corpus and its batches."""

    def found(run: Run, record: Record) -> Any:
        asked = run.workload.options
        return value(asked.corpus, asked.packed(record.point))

    return Column(name, found, **more)


def _ms_per_sample(run: Run, record: Record) -> float | None:
    return _per_sample(run, statistics.median(record.samples)) if record.samples else None


def _per_sample(run: Run, ns: float) -> float:
    found: float = ns / len(run.workload.options.corpus.lengths) / 1e6
    return found


def _interval_ms(end: str) -> Callable[[Run, Record], float | None]:
    def found(run: Run, record: Record) -> float | None:
        interval = statistics.median_interval(record.rounds)
        return None if interval is None else _per_sample(run, getattr(interval, end))

    return found


def _pass_seconds(record: Record) -> float | None:
    return statistics.median(record.samples) / 1e9 if record.samples else None


def _tokens_per_second(run: Run, record: Record) -> Any:
    seconds = _pass_seconds(record)
    return None if seconds is None else run.workload.options.corpus.tokens / seconds


COLUMNS = (
    *columns.point_columns(Packing),
    _of_corpus("sentences", lambda corpus, packed: len(corpus.lengths)),
    _of_corpus("tokens", lambda corpus, packed: corpus.tokens),
    _of_corpus("positions", lambda corpus, packed: packed.positions, help="tokens and padding"),
    _of_corpus("batches", lambda corpus, packed: len(packed.batches)),
    _of_corpus("shapes", lambda corpus, packed: len(packed.shapes), help="distinct batch × length"),
    Column(
        "ms_per_sample", _ms_per_sample, title="ms/sample",
        cell=lambda run, record: columns.headline_cell(run, record, _ms_per_sample(run, record), columns.ms),
        help="median pass over the number of sentences, ms; ! marks a disturbed cell",
    ),
    columns.PRECISION,
    *(Column(f"ms_per_sample_{end}", _interval_ms(end)) for end in ("low", "high")),
    Column(
        "pass_s", lambda run, record: _pass_seconds(record), title="pass s", show=lambda value: f"{value:.4g}", drop=15,
        help="median of whole passes, s",
    ),
    Column("tokens_per_second", _tokens_per_second, title="tokens/s", is_on_request=True),
    _of_corpus(
        "padding_share", lambda corpus, packed: packed.padding_share(corpus.tokens), title="padding", show=percent,
        drop=60, help="padding over all positions",
    ),
    *columns.SPEEDUP,
    *columns.ratio_columns("_to_one", ratio_to_batch_1, "times faster a sentence than the baseline at batch 1"),
    *columns.ratio_columns("_to_cpu", ratio_to_cpu, "times faster a sentence than eager at batch 1 on the CPU"),
    columns.PARITY,
    columns.MAX_ABS_ERROR,
    Column("compile_s", lambda run, record: record.facts.get("compile_seconds"), help="of all shapes, s"),
    Column("recompiles", lambda run, record: record.facts.get("recompiles_while_timing")),
    Column("rounds", lambda run, record: len(record.rounds)),
    columns.option("boundary"),
)  # fmt: skip


class Passes(Workload):
    """What is said of passes over a corpus."""

    columns = COLUMNS

    options: CorpusOptions

    def heading(self, run: Run) -> Iterable[str]:
        asked, corpus = self.options, self.options.corpus
        shortest, q1, middle, q3, longest = corpus.quartiles
        cut = f"; {corpus.truncated} cut at {corpus.most_tokens}" if corpus.truncated else ""
        yield from self.plan(run)
        yield f"tokens: {corpus.tokens:,}; a sentence {shortest} to {longest}, quartiles {q1}, {middle}, {q3}{cut}"
        on_device, baseline = asked.boundary == "device", run.baseline_candidate
        within = "batches on the device before" if on_device else "host arrays in and out, copies timed"
        yield (
            f"median of {asked.rounds} whole passes over the number of sentences, {within}, one synchronisation a "
            f"pass; ±: {statistics.MEDIAN_CONFIDENCE:.0%} interval; speed-up: against {baseline.label} in the same "
            f"batches, within rounds, {statistics.RATIO_CONFIDENCE:.0%} interval"
        )

    def plan(self, run: Run) -> Iterable[str]:
        corpus = self.options.corpus
        yield f"corpus: {corpus.source}" + (f"; {corpus.note}" if corpus.note else "")

    def table_title(self, record: Record) -> str:
        multiple = self.options.multiple(record.point.order)
        rounded = f", lengths rounded up to a multiple of {multiple}" if multiple > 1 else ""
        return f"{record.point.order}{rounded}"

    def sections(self, run: Run) -> Iterable[Section]:
        yield Section("Fastest", items=[*_fastest(run), *_fastest_of_all(run)])
        yield self._one_by_one(run)
        bins = self.options.corpus.histogram()
        most = max(count for _, _, count in bins)
        rows = tuple(
            (f"{first}–{last}" if last > first else str(first), str(count), "█" * -(-BAR * count // most))
            for first, last, count in bins
        )
        yield Section("Lengths of the sentences", table=Table(("tokens", "sentences", ""), rows, (False, False, True)))
        yield Section("Compiled shapes", items=list(self._compiled(run)))

    def _one_by_one(self, run: Run) -> Section:
        """Speed-ups against batch 1, here and on the CPU, of every cell that can be compared; and what is missing."""
        cpu, baseline = self.options.one_by_one, run.baseline_candidate
        ratios = [ratio_to_batch_1, *([ratio_to_cpu] if cpu is not None else [])]
        titles = ("batch", "order", "backend", "here", "on the CPU")[: 3 + len(ratios)]
        rows = []
        for point, records in run.by_point():
            for record in records:
                found = [ratio(run, record) for ratio in ratios]
                if any(found):
                    cells = [DASH if one is None else columns.ratio_cell(one) for one in found]
                    cells[0] = "1×" if record.cell == (BATCH_1, baseline) else cells[0]
                    rows.append((str(point.batch), point.order, run.name(record.candidate), *cells))
        one, lines = run.record(BATCH_1, baseline), []
        if one is None or one.status != "ok":
            lines.append(
                f"no speed-ups against batch 1, as {baseline.label} at batch 1, unsorted, was not measured here"
            )
        if cpu is not None:
            lines.append(f"on the CPU: {cpu.candidate.label} on {cpu.cpu}, {cpu.threads} threads, {cpu.started}")
        elif self.options.kind == "cuda":
            lines.append(
                "no speed-ups against the CPU; measure --batches 1 with --device cpu, and give that file as --cpu-run"
            )
        is_left = (False, *(True for _ in titles[1:]))
        return Section(
            f"Times faster a sentence than {baseline.label} at batch 1", lines, Table(titles, tuple(rows), is_left)
        )

    def _compiled(self, run: Run) -> Iterator[str]:
        """Graphs, seconds and recompilations of the cells that compiled shapes."""
        for record in run.records:
            facts, first_ns = record.facts, record.once.first_call_ns
            if facts.get("graphs") is None or first_ns is None:
                continue
            cached = ", partly from the cache" if facts.get("compile_cache_hits") else ""
            yield (
                f"{run.name(record.candidate)} at {record.point}: {facts['graphs']} graphs for "
                f"{len(self.options.packed(record.point).shapes)} shapes in {facts.get('compile_seconds') or 0:.1f} s"
                f"{cached} (first calls {first_ns / 1e9:.1f} s, no part of a pass); "
                f"{facts.get('recompiles_while_timing') or 0} recompilations in the timed passes"
            )

    def warnings(self, run: Run, record: Record) -> Iterable[str]:
        """A pass far off the others that the quartiles do not show."""
        samples = record.samples
        if len(samples) < 2 or statistics.spread(samples) > WIDE_SPREAD:
            return
        if (max(samples) - min(samples)) / min(samples) > WIDE_SPREAD:
            yield f"its passes differ by over {WIDE_SPREAD:.0%}; stop other work on this machine and measure again"

    def progress(self, run: Run, record: Record) -> str:
        ms = _ms_per_sample(run, record)
        if record.status != "ok" or ms is None:
            return super().progress(run, record)
        return f"{columns.ms(ms)} ms/sample  {record.verdict}".rstrip()


def _fastest(run: Run) -> Iterator[str]:
    """The winner at each batch size, a line an order."""
    parts: dict[str, list[str]] = {}
    for point, records in sections.iter_points(run):
        if (won := sections.winner(run, records)) is not None:
            names = ", ".join(run.name(one.candidate) for one in won.ties)
            tied = f" (tie with {names})" if names else ""
            said = f"undecided at {point.batch} ({won.why_undecided})" if won.why_undecided else ""
            said = said or f"{run.name(won.record.candidate)} at {point.batch}{tied}"
            parts.setdefault(point.order, []).append(said)
    yield from (f"{order}: {'; '.join(found)}" for order, found in parts.items())


def _fastest_of_all(run: Run) -> Iterator[str]:
    """The fastest cell of all packings."""
    if (won := sections.winner(run, run.records)) is None:
        return
    if won.why_undecided:
        yield f"of all: undecided, {won.why_undecided}"
        return
    best, ratio = won.record, ratio_to_batch_1(run, won.record)
    line = f"of all: {run.name(best.candidate)} at batch {best.point.batch}, {best.point.order}"
    if ratio is not None and ratio.verdict == "faster" and not is_unsteady(ratio):
        line += f", {factor(ratio.value)}× {run.baseline_candidate.label} at batch 1"
    names = [f"{run.name(one.candidate)} at {one.point}" for one in won.ties]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    yield line + (f" (tie with {', '.join(names[:MOST_NAMED])}{more})" if names else "")
