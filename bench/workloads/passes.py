"""What a run over a corpus says: time a sentence, padding, lengths, and compiled shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.columns import Column, Section, Table, milliseconds, percent
from bench.packing import Packed, Packing, histogram
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


def _tokens(run: Run) -> int:
    return sum(_asked(run).lengths)


def _ms_per_sample(run: Run, record: Record) -> float | None:
    return statistics.median(record.samples) / len(_asked(run).lengths) / 1e6 if record.samples else None


def _interval_ms(run: Run, record: Record, end: str) -> float | None:
    found = statistics.median_interval(record.rounds)
    return None if found is None else getattr(found, end) / len(_asked(run).lengths) / 1e6


def _shown_ms(run: Run, record: Record) -> str:
    ms = _ms_per_sample(run, record)
    if record.status != "ok" or ms is None:
        return record.status
    return (columns.DISTURBED if run.disturbances(record) else "") + milliseconds(ms * 1e6)


def _pass_seconds(run: Run, record: Record) -> float | None:
    return statistics.median(record.samples) / 1e9 if record.samples else None


def _tokens_per_second(run: Run, record: Record) -> float | None:
    seconds = _pass_seconds(run, record)
    return None if seconds is None else _tokens(run) / seconds


COLUMNS = (
    *columns.point_columns(Packing),
    Column("sentences", lambda run, record: len(_asked(run).lengths)),
    Column("tokens", lambda run, record: _tokens(run)),
    Column("positions", lambda run, record: _packed(run, record).positions, help="tokens and padding"),
    Column(
        "padding_share", lambda run, record: _packed(run, record).padding_share(_tokens(run)),
        help="padding over all positions",
    ),
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
        "pass_s", _pass_seconds, title="pass s", show=lambda value: f"{value:.4g}", drop=60,
        help="median of whole passes, s",
    ),
    Column("tokens_per_second", _tokens_per_second),
    *columns.SPEEDUP,
    *one_by_one.COLUMNS,
    columns.PARITY,
    columns.MAX_ABS_ERROR,
    Column("compile_s", lambda run, record: record.facts.get("compile_seconds"), help="of all shapes, s"),
    Column("recompiles", lambda run, record: record.facts.get("recompiles_while_timing")),
    Column("rounds", lambda run, record: len(record.rounds)),
    columns.option("boundary"),
)  # fmt: skip


def heading(run: Run, asked: CorpusOptions) -> Iterator[str]:
    """Where the sentences came from, how long they are, and how they were timed."""
    lengths = asked.lengths
    q1, middle, q3 = map(round, statistics.quartiles(lengths))
    cut = f"; {asked.truncated} cut at {asked.most_tokens}" if asked.truncated else ""
    yield f"corpus: {asked.corpus}" + (f"; {asked.note}" if asked.note else "")
    of_lengths = f"a sentence {min(lengths)} to {max(lengths)}, quartiles {q1}, {middle}, {q3}"
    yield f"tokens: {sum(lengths):,}; {of_lengths}{cut}"
    on_device = asked.boundary == "device"
    within = "batches on the device before" if on_device else "host arrays in and out, copies timed"
    yield (
        f"median of {asked.rounds} whole passes over the number of sentences, {within}, one synchronisation a pass; ±: "
        f"{statistics.MEDIAN_CONFIDENCE:.0%} interval; speed-up: against {run.baseline_candidate.label} in the same "
        f"batches, within rounds, {statistics.RATIO_CONFIDENCE:.0%} interval"
    )


def report(run: Run) -> Iterator[Section]:
    """Padding and winner of each packing, what batches gain, lengths, and compiled shapes."""
    for point, records in sections.iter_points(run):
        yield Section("", (_padding(run, point),), point=point)
        yield sections.fastest_at(run, point, records)
    yield one_by_one.fastest_of_all(run)
    yield one_by_one.section(run)
    yield _lengths(run)
    yield Section("Compiled shapes", items=list(_compiled(run)))


def _padding(run: Run, point: Packing) -> str:
    packed, multiple = _asked(run).packed(point), _asked(run).multiple(point.order)
    rounded = f", lengths rounded up to a multiple of {multiple}" if multiple > 1 else ""
    share = percent(packed.padding_share(_tokens(run)))
    return f"padding {share}; {len(packed.batches):,} batches of {len(packed.shapes):,} shapes{rounded}"


def _lengths(run: Run) -> Section:
    bins = histogram(_asked(run).lengths)
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


def warnings(record: Record) -> Iterable[str]:
    """A pass far off the others, which the quartiles of a few passes do not show."""
    samples = record.samples
    if len(samples) > 1 and (max(samples) - min(samples)) / min(samples) > WIDE_SPREAD:
        yield f"its passes differ by over {WIDE_SPREAD:.0%}; stop other work on this machine and measure again"


def progress(run: Run, record: Record) -> str:
    """What a cell came to, in a few words."""
    ms = _ms_per_sample(run, record)
    if record.status != "ok" or ms is None:
        return sections.outcome(run, record)
    return f"{milliseconds(ms * 1e6)} ms/sample  {record.verdict}".rstrip()
