"""What a run over a corpus says: time a sentence, padding, lengths, and compiled shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import Column, Section, Table, milliseconds, percent
from bench.packing import Packed, Packing, Summary
from bench.run import columns, sections
from bench.run.record import Record, Run
from bench.run.warnings import WIDE_SPREAD
from bench.workloads import one_by_one

if TYPE_CHECKING:
    from bench.workloads.corpus import CorpusOptions

#: Characters of a histogram's longest bar.
BAR = 40


def _asked(run: Run) -> CorpusOptions:
    options: Any = run.options
    return options  # type: ignore[no-any-return]


def _packed(run: Run, record: Record) -> Packed:
    return _asked(run).packed(record.point)


def _ms_per_sample(run: Run, record: Record) -> float | None:
    return statistics.median(record.samples) / len(_asked(run).corpus.lengths) / 1e6 if record.samples else None


def _interval_ms(run: Run, record: Record, end: str) -> float | None:
    found = statistics.median_interval(record.rounds)
    return None if found is None else getattr(found, end) / len(_asked(run).corpus.lengths) / 1e6


def _shown_ms(run: Run, record: Record) -> str:
    return columns.headline_cell(run, record, _ms_per_sample(run, record), lambda ms: milliseconds(ms * 1e6))


def _pass_seconds(run: Run, record: Record) -> float | None:
    return statistics.median(record.samples) / 1e9 if record.samples else None


def _tokens_per_second(run: Run, record: Record) -> float | None:
    seconds = _pass_seconds(run, record)
    return None if seconds is None else _asked(run).corpus.tokens / seconds


def _padding_share(run: Run, record: Record) -> float:
    return _packed(run, record).padding_share(_asked(run).corpus.tokens)


COLUMNS = (
    *columns.point_columns(Packing),
    Column("sentences", lambda run, record: len(_asked(run).corpus.lengths)),
    Column("tokens", lambda run, record: _asked(run).corpus.tokens),
    Column("positions", lambda run, record: _packed(run, record).positions, help="tokens and padding"),
    Column("batches", lambda run, record: len(_packed(run, record).batches)),
    Column("shapes", lambda run, record: len(_packed(run, record).shapes), help="distinct batch × length"),
    Column(
        "ms_per_sample", _ms_per_sample, title="ms/sample", cell=_shown_ms,
        help="median pass over the number of sentences, ms; ! marks a disturbed cell",
    ),
    columns.PRECISION,
    Column("ms_per_sample_low", lambda run, record: _interval_ms(run, record, "low")),
    Column("ms_per_sample_high", lambda run, record: _interval_ms(run, record, "high")),
    Column(
        "pass_s", _pass_seconds, title="pass s", show=lambda value: f"{value:.4g}", drop=15,
        help="median of whole passes, s",
    ),
    Column("tokens_per_second", _tokens_per_second, title="tokens/s", is_on_request=True),
    Column(
        "padding_share", _padding_share, title="padding",
        show=percent, drop=60, help="padding over all positions",
    ),
    *columns.SPEEDUP,
    *one_by_one.COLUMNS,
    columns.PARITY,
    columns.MAX_ABS_ERROR,
    Column("compile_s", lambda run, record: record.facts.get("compile_seconds"), help="of all shapes, s"),
    Column("recompiles", lambda run, record: record.facts.get("recompiles_while_timing")),
    Column("rounds", lambda run, record: len(record.rounds)),
    columns.option("boundary"),
)  # fmt: skip


def of_corpus(corpus: Summary) -> str:
    """Where the sentences came from."""
    return f"corpus: {corpus.source}" + (f"; {corpus.note}" if corpus.note else "")


def heading(run: Run, asked: CorpusOptions) -> Iterator[str]:
    """Where the sentences came from, how long they are, and how they were timed."""
    corpus = asked.corpus
    shortest, q1, middle, q3, longest = corpus.quartiles
    cut = f"; {corpus.truncated} cut at {corpus.most_tokens}" if corpus.truncated else ""
    yield of_corpus(corpus)
    yield f"tokens: {corpus.tokens:,}; a sentence {shortest} to {longest}, quartiles {q1}, {middle}, {q3}{cut}"
    on_device = asked.boundary == "device"
    within = "batches on the device before" if on_device else "host arrays in and out, copies timed"
    yield (
        f"median of {asked.rounds} whole passes over the number of sentences, {within}, one synchronisation a pass; ±: "
        f"{statistics.MEDIAN_CONFIDENCE:.0%} interval; speed-up: against {run.baseline_candidate.label} in the same "
        f"batches, within rounds, {statistics.RATIO_CONFIDENCE:.0%} interval"
    )


def table_title(asked: CorpusOptions, order: str) -> str:
    """An order, and what it rounds lengths up to."""
    multiple = asked.multiple(order)
    return order + (f", lengths rounded up to a multiple of {multiple}" if multiple > 1 else "")


def report(run: Run) -> Iterator[Section]:
    """Winners, what batches gain, lengths, and compiled shapes."""
    yield Section("Fastest", items=[*_fastest(run), *one_by_one.fastest_of_all(run)])
    yield one_by_one.section(run)
    yield _lengths(run)
    yield Section("Compiled shapes", items=list(_compiled(run)))


def _fastest(run: Run) -> Iterator[str]:
    """The winner at each batch size, a line an order."""
    parts: dict[str, list[str]] = {}
    for point, records in sections.iter_points(run):
        if (won := sections.winner(run, records)) is not None:
            names = ", ".join(run.name(one.candidate) for one in won.ties)
            tied = f" (tie with {names})" if names else ""
            parts.setdefault(point.order, []).append(f"{run.name(won.record.candidate)} at {point.batch}{tied}")
    yield from (f"{order}: {'; '.join(found)}" for order, found in parts.items())


def _lengths(run: Run) -> Section:
    bins = _asked(run).corpus.histogram()
    most = max(count for _, _, count in bins)
    rows = tuple(
        (f"{first}–{last}" if last > first else str(first), str(count), "█" * -(-BAR * count // most))
        for first, last, count in bins
    )
    return Section("Lengths of the sentences", table=Table(("tokens", "sentences", ""), rows, (False, False, True)))


def _compiled(run: Run) -> Iterator[str]:
    """Graphs, seconds and recompilations of the cells that compiled shapes."""
    for record in run.records:
        facts, first_ns = record.facts, record.once.first_call_ns
        if facts.get("graphs") is None or first_ns is None:
            continue
        cached = ", partly from the cache" if facts.get("compile_cache_hits") else ""
        yield (
            f"{run.name(record.candidate)} at {record.point}: {facts['graphs']} graphs for "
            f"{len(_packed(run, record).shapes)} shapes in {facts.get('compile_seconds') or 0:.1f} s{cached} "
            f"(first calls {first_ns / 1e9:.1f} s, no part of a pass); "
            f"{facts.get('recompiles_while_timing') or 0} recompilations in the timed passes"
        )


def warnings(record: Record) -> Iterator[str]:
    """A pass far off the others that the quartiles do not show."""
    samples = record.samples
    if len(samples) < 2 or statistics.spread(samples) > WIDE_SPREAD:
        return
    if (max(samples) - min(samples)) / min(samples) > WIDE_SPREAD:
        yield f"its passes differ by over {WIDE_SPREAD:.0%}; stop other work on this machine and measure again"


def progress(run: Run, record: Record) -> str:
    """What a cell came to, in a few words."""
    ms = _ms_per_sample(run, record)
    if record.status != "ok" or ms is None:
        return sections.outcome(run, record)
    return f"{milliseconds(ms * 1e6)} ms/sample  {record.verdict}".rstrip()
