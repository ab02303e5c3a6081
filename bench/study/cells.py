"""Cells of runs of every kind as claims ask for them: what each took or held, and which of them make a series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import statistics
from bench.run import batch_search, held, pairs
from bench.run.record import SAME_MODEL, WALL, Record, Run
from bench.run.workload import Workload
from bench.statistics import Interval
from bench.workloads.corpus import Corpus
from bench.workloads.forward import Forward
from bench.workloads.generate import DECODE, Generate
from bench.workloads.memory import Memory
from exporters.sources import KeysAndValues

WORKLOADS: tuple[type[Workload], ...] = (Forward, Corpus, Generate, Memory)
#: Claims are judged at this precision alone, which is that of the old figures.
PRECISION = "fp32"


@dataclass(frozen=True, eq=False)
class Cell:
    """One record, with its run and what claims look it up by."""

    run: Run
    record: Record
    file: int
    """Number of its run's file, from 1."""
    workload: str
    device: str
    model: str
    backend: str
    """`backend` or `backend:variant`."""
    precision: str
    batch: int | None
    length: int | None
    """In tokens; None for sentences, whose lengths vary."""
    order: str | None
    """Of sentences; None for a padded batch."""

    @cached_property
    def fault(self) -> str:
        """Why no claim may rest on its time; "" if one may."""
        if self.record.status != "ok" or not self.record.rounds:
            return self.record.status
        if not self.record.is_judged:
            return "computes nothing"
        if self.record.verdict not in SAME_MODEL:
            return f"parity {self.record.verdict or 'unjudged'}"
        if self.run.is_implausible(self.record):
            return "implausible: below the roofline"
        boundary = getattr(self.run.options, "boundary", "device")
        return "" if boundary == "device" else "its time holds the copies of --boundary host"

    @property
    def is_surveyed(self) -> bool:
        """True if its run tells what models hold, and times nothing."""
        return "keys_and_values" in self.run.notes

    @cached_property
    def is_disturbed(self) -> bool:
        """True if other work took part while it was timed."""
        return bool(self.run.disturbances(self.record))

    @cached_property
    def samples_ms(self) -> list[list[float]]:
        """Milliseconds a padded sequence or a sentence, by round."""
        of_sentences = getattr(self.run.options, "corpus", None)
        samples = self.batch or 1 if of_sentences is None else len(of_sentences.lengths)
        return [[ns / 1e6 / samples for ns in round_] for round_ in self.rounds_ns(WALL)]

    def time_ms(self, kind: str = WALL) -> Value:
        """Milliseconds of one call."""
        return self._value_of([[ns / 1e6 for ns in round_] for round_ in self.rounds_ns(kind)], kind)

    @cached_property
    def sample_ms(self) -> Value:
        """Milliseconds a padded sequence or a sentence."""
        return self._value_of(self.samples_ms, WALL)

    def rounds_ns(self, kind: str) -> list[list[int]]:
        """Samples of one kind of time, by round: quiet rounds, or all if these are too few to decide anything."""
        is_decisive = pairs.has_quiet_rounds(self.record, kind)
        return pairs.quiet_rounds(self.record, kind) if is_decisive else self.record.rounds_ns(kind)

    def _value_of(self, rounds: Sequence[Sequence[float]], kind: str) -> Value:
        is_decisive = pairs.has_quiet_rounds(self.record, kind)
        interval = statistics.median_interval(rounds) if is_decisive else None
        return Value(statistics.median(statistics.pooled(rounds)), interval)


@dataclass(frozen=True)
class Value:
    """A figure with its interval."""

    middle: float
    interval: Interval | None
    """None with fewer than 3 quiet rounds; as narrow as can be for bytes, which are counted."""


def cells_of(runs: Iterable[Run]) -> list[Cell]:
    """Every cell of runs of `WORKLOADS`, without second copies and planned cells that were not wanted."""
    return [
        Cell(
            run, record, file, run.workload.name, run.options.kind, run.model.name, record.candidate.label,
            record.candidate.precision, *(getattr(record.point, name, None) for name in ("batch", "length", "order")),
        )
        for file, run in enumerate(runs, start=1)
        for record in run.records
        if record.candidate.copy == 1 and not run.workload.is_left_out(record)
    ]  # fmt: skip


def hardware(run: Run) -> str:
    """Name of the card for a run on CUDA, else of the processor."""
    cards = run.fingerprint.get("gpus") or []
    if run.options.kind == "cuda" and cards:
        return str(cards[0].get("name", "a GPU without a name"))
    return str(run.fingerprint.get("cpu", "an unknown processor"))


def find(cells: Iterable[Cell], wanted: Mapping[str, Any]) -> list[Cell]:
    """Cells whose traits, or options of whose run, are as `wanted` or among a list of it, the soundest first."""

    def fits(cell: Cell) -> bool:
        here = {name: getattr(cell, name, getattr(cell.run.options, name, None)) for name in wanted}
        return all(here[name] in one if isinstance(one, list) else here[name] == one for name, one in wanted.items())

    def soundness(cell: Cell) -> tuple[bool, bool, bool, int]:
        has_context = cell.is_surveyed and held.context_bytes(cell.run, cell.record) is not None
        return has_context, not cell.fault, not cell.is_disturbed, len(cell.record.rounds)

    return sorted(filter(fits, cells), key=soundness, reverse=True)


def figure_of(cell: Cell, name: str, at: Mapping[str, Any]) -> Value | None:
    """A figure by the name that claims.toml has for it: a time in ms, or bytes; None for a cell without."""
    if name in (WALL, DECODE):
        is_sound = not cell.fault and _is_of_single_steps(cell)
        return cell.time_ms(name) if is_sound and cell.record.rounds_ns(name) else None
    count = _count(cell, name, at)
    return None if count is None else Value(count, Interval(count, count))


def _is_of_single_steps(cell: Cell) -> bool:
    """False for a generation whose decoding step is not one pass over one token of each prompt."""
    decoding = getattr(cell.run.options, "decoding", "")
    return cell.record.figures.get("way", "cache") == "cache" and not decoding.startswith("beam")


def _count(cell: Cell, name: str, at: Mapping[str, Any]) -> float | None:
    """What is counted of a cell: bytes, or a share of them."""
    run, record = cell.run, cell.record
    parameters, process = held.loaded(record, "parameters_bytes"), run.process_bytes(record)
    stored = batch_search.bytes_per_sequence(record, "stored_bytes")
    match name:
        case "peak":
            return None if cell.fault else run.peak_bytes(record)
        case "card":  # all memory of a card that is large enough, and that the call did not fit into
            total = (run.fingerprint.get("gpus") or [{}])[0].get("total_bytes") or 0
            return total if record.status == "oom" and total >= at["gib"] * held.GIB else None
        case "stored":
            return stored
        case "kept":  # weights, which every record of the run has alike, and what autograd keeps of a batch
            weights = [held.loaded(one, "parameters_bytes") for one in run.records]
            known = next((one for one in weights if one is not None), None)
            return None if known is None or stored is None else known + at["batch"] * stored
        case "cached" if (noted := run.notes.get("keys_and_values")) is not None:
            return KeysAndValues(**noted).bytes(at["length"], PRECISION)
        case "cached":
            return record.memory.get("key_value_bytes_per_sequence") if cell.length == at["length"] else None
        case "context":
            return held.context_bytes(run, record)
        case "parameters" | "process":
            return parameters if name == "parameters" else process
    if parameters is None or process is None:
        return None
    return {"beside": process - parameters, "share_beside": process / parameters - 1}[name]
