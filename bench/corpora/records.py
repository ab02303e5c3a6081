"""Whole passes over a corpus in memory: their records, and what is computed from them when asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import statistics
from bench.corpora.plan import CorpusPlan, Packing
from bench.corpora.sentences import CorpusSummary
from bench.machine import conditions
from bench.records import CellRecord, exit_code_of, is_unsteady
from bench.spec import Candidate, Grid, TimingPlan

SCHEMA = 1
#: Columns of the CSV and keys of `CorpusRun.rows`; new ones are appended.
COLUMNS = (
    "model", "backend", "variant", "precision", "copy", "device", "batch", "order", "status", "reason", "sentences",
    "ms_per_sample", "ms_per_sample_low", "ms_per_sample_high", "pass_s", "tokens_per_second", "padding_share",
    "batches", "shapes", "parity", "max_abs_error", "speedup", "speedup_low", "speedup_high", "verdict",
    "speedup_to_one", "speedup_to_one_low", "speedup_to_one_high", "verdict_to_one",
    "speedup_to_cpu", "speedup_to_cpu_low", "speedup_to_cpu_high", "verdict_to_cpu",
    "first_calls_s", "compile_s", "recompiles", "tainted", "rounds", "task", "threads", "boundary", "weights",
    "peak_process_bytes", "peak_allocated_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class CorpusRecord(CellRecord):
    """What became of one contestant's passes over the corpus in one packing."""

    model: str
    backend: str
    variant: str
    precision: str
    device: str
    batch: int
    order: str
    status: str
    sentences: int
    tokens: int
    """Of all sentences, special ones included."""
    positions: int
    """Tokens and padding of all batches."""
    batches: int
    shapes: int
    """Distinct rows × length among the batches."""
    reason: str = ""
    copy: int = 1
    weights: str = ""
    rounds_ns: list[int] = field(default_factory=list)
    """Synchronised wall time of one whole pass, one a round."""
    calls_per_sample: int = 1
    """Above 1 where passes are shorter than a millisecond; a round is then their mean."""
    first_calls_ns: int | None = None
    """Of the first call of each distinct shape, compilation included."""
    warmup_ns: list[int] = field(default_factory=list)
    export_seconds: float | None = None
    load_seconds: float | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    turns: str = "interleaved"
    repeat: str = ""
    judged: bool = True
    """False for a backend that does not compute the model (`null`)."""
    memory: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    environment: str = ""

    @property
    def packing(self) -> Packing:
        """What the corpus was taken in."""
        return Packing(self.batch, self.order)

    @property
    def rounds(self) -> list[list[float]]:
        """Nanoseconds a sentence, by round, as `statistics` takes them."""
        return [[ns / self.sentences] for ns in self.rounds_ns]

    @property
    def ns_per_sample(self) -> float:
        """Median over the rounds of a pass's time by its sentences."""
        return statistics.median(statistics.pooled(self.rounds))

    @property
    def padding_share(self) -> float:
        """Padded positions over all positions."""
        return 1 - self.tokens / self.positions


@dataclass(frozen=True)
class Baseline:
    """A record of another run that speed-ups are also against: eager at batch 1, unsorted, on the CPU."""

    record: CorpusRecord
    machine: str
    """Name of its processor."""
    threads: int
    started: str

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Baseline:
        """What `to_json` wrote."""
        return cls(**{**data, "record": CorpusRecord(**data["record"])})


@dataclass
class CorpusRun:
    """All records of one call of `bench corpus`, with the corpus's lengths and the machine's fingerprint."""

    grid: Grid
    """Its shapes are batch sizes with the longest padded length of each; the cells are those of `corpus_plan`."""
    plan: TimingPlan
    corpus_plan: CorpusPlan
    corpus: CorpusSummary
    fingerprint: dict[str, Any]
    origin: str
    checkpoint: str
    command: str
    started: str
    baseline: Baseline | None = None
    records: list[CorpusRecord] = field(default_factory=list)
    path: Path | None = None
    is_complete: bool = False
    parent_cpu_share: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the CSV's columns, which are the keys of `rows`."""
        return COLUMNS

    @property
    def planned(self) -> int:
        """Cells of the whole run."""
        return len(self.corpus_plan.packings) * len(self.grid.contestants)

    def record(self, packing: Packing, contestant: Candidate) -> CorpusRecord | None:
        """What became of one cell, or None where it has no record."""
        found = (one for one in self.records if one.packing == packing and one.contestant == contestant)
        return next(found, None)

    @property
    def first(self) -> Candidate:
        """Whom speed-ups are against: eager as it is, or where it takes no part the first contestant."""
        eager = (one for one in self.grid.contestants if (one.backend, one.variant) == ("eager", "default"))
        return next(eager, self.grid.contestants[0])

    @property
    def one(self) -> CorpusRecord | None:
        """The record of `first` at batch 1, unsorted."""
        return self.record(Packing(1, "unsorted"), self.first)

    def ratio(self, record: CorpusRecord) -> statistics.Ratio | None:
        """Times faster than `first` in the same packing, within rounds."""
        other = self.record(record.packing, self.first)
        if other is None or not _may_compare(other, record):
            return None
        if "sequential" in (other.turns, record.turns):
            return statistics.ratio_of_runs(other.rounds, record.rounds)
        return statistics.ratio_within_rounds(other.rounds, record.rounds)

    def ratio_to_one(self, record: CorpusRecord) -> statistics.Ratio | None:
        """Times faster a sentence than `one`, from medians apart: other packings are measured at other times."""
        if self.one is None or not _may_compare(self.one, record):
            return None
        if record.packing == self.one.packing:
            return self.ratio(record)
        return statistics.ratio_of_runs(self.one.rounds, record.rounds)

    def ratio_to_baseline(self, record: CorpusRecord) -> statistics.Ratio | None:
        """Times faster a sentence than `baseline`, from medians apart; None without one."""
        if self.baseline is None or not _may_compare(self.baseline.record, record):
            return None
        return statistics.ratio_of_runs(self.baseline.record.rounds, record.rounds)

    def fastest(self, packing: Packing | None = None) -> tuple[CorpusRecord, tuple[CorpusRecord, ...]] | None:
        """The fastest a sentence in `packing`, or of all, and whom it ties with; None where fewer than two compare."""
        compared = [one for one in self.records if one.is_comparable and one.judged and packing in (None, one.packing)]
        if len(compared) < 2:
            return None
        best = min(compared, key=lambda one: one.ns_per_sample)
        ties = tuple(one for one in compared if one is not best and not _is_beaten(best, one))
        return best, ties

    def taint(self, record: CorpusRecord) -> list[str]:
        """What disturbed the machine while this cell was timed, one line each."""
        return conditions.taint(record.conditions) if record.conditions else []

    @property
    def exit_code(self) -> int:
        """As `Run.exit_code`: 3 something is broken; 0 all measured cells equivalent or better; 1 anything else."""
        return exit_code_of(self.records)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a record under the CSV's names; None where a cell has no such figure."""
        return [_row(self, record) for record in self.records]

    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        return {
            "kind": "corpus",
            "schema": SCHEMA,
            "grid": self.grid.to_json(),
            "plan": asdict(self.plan),
            "corpus_plan": self.corpus_plan.to_json(),
            "corpus": self.corpus.to_json(),
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "checkpoint": self.checkpoint,
            "baseline": self.baseline.to_json() if self.baseline else None,
            "command": self.command,
            "started": self.started,
        }


def _may_compare(one: CorpusRecord, other: CorpusRecord) -> bool:
    if not one.judged and not other.judged:
        return one.status == other.status == "ok"
    return one.is_comparable and other.is_comparable


def _is_beaten(best: CorpusRecord, other: CorpusRecord) -> bool:
    is_paired = best.packing == other.packing and "sequential" not in (best.turns, other.turns)
    ratio_of = statistics.ratio_within_rounds if is_paired else statistics.ratio_of_runs
    ratio = ratio_of(other.rounds, best.rounds)
    return ratio is not None and ratio.verdict == "faster"


def _row(run: CorpusRun, record: CorpusRecord) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
    values |= {"task": run.grid.task, "threads": run.grid.threads, "boundary": run.grid.boundary}
    values |= {"parity": record.verdict or None, "max_abs_error": record.parity.get("max_abs_error")}
    values |= {"rounds": len(record.rounds_ns), "verdict": None}
    values |= {"compile_s": record.facts.get("compile_seconds")}
    values |= {"recompiles": record.facts.get("recompiles_while_timing")}
    peak = record.memory.get("peak", {})
    values |= {name: peak.get(name) for name in ("peak_process_bytes", "peak_allocated_bytes")}
    if record.first_calls_ns is not None:
        values["first_calls_s"] = record.first_calls_ns / 1e9
    if not record.rounds_ns:
        return values
    nanoseconds = record.ns_per_sample
    values |= {"ms_per_sample": nanoseconds / 1e6, "pass_s": nanoseconds * record.sentences / 1e9}
    values |= {"tokens_per_second": record.tokens / values["pass_s"], "tainted": bool(run.taint(record))}
    if interval := statistics.median_interval(record.rounds):
        values |= {"ms_per_sample_low": interval.low / 1e6, "ms_per_sample_high": interval.high / 1e6}
    ratios = {"": run.ratio(record), "_to_one": run.ratio_to_one(record), "_to_cpu": run.ratio_to_baseline(record)}
    for suffix, ratio in ratios.items():
        if ratio is not None:
            values[f"verdict{suffix}"] = ratio.verdict
            values[f"speedup{suffix}"] = None if is_unsteady(ratio) else ratio.value
            if ratio.interval is not None:
                values |= {
                    f"speedup{suffix}_low": ratio.interval.low,
                    f"speedup{suffix}_high": ratio.interval.high,
                }
    return values
