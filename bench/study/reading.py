"""Files of results as flat figures: the one module that knows how the commands' files are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import statistics
from bench.errors import UserError
from bench.linesfile import kind_of
from bench.machine import same_machine
from bench.records import SAME_MODEL, Record, Run
from bench.study.figures import (
    CORPUS,
    CPU,
    CUDA,
    PRECISION,
    SHAPES,
    Cached,
    Figure,
    Figures,
    Generation,
    Held,
    Source,
    Stored,
)

if TYPE_CHECKING:
    from bench.run import record as new

    Timed = Record | new.Record

COMPUTES_NOTHING = "computes nothing"


def read_figures(paths: Sequence[str | Path]) -> Figures:
    """All figures in files of `bench compare`, `corpus`, `generate` and `memory`.

    Raises UserError for a file that is none, is damaged or is given twice.
    """
    found = Figures()
    for path in map(Path, paths):
        figures = _read(path)
        source = figures.sources[0]
        for other in found.sources:
            if (other.command, other.started) == (source.command, source.started):
                raise UserError(f"{other.path!r} and {source.path!r} are the same run; give it once")
        found += figures
    return found


def obstacles(sources: Sequence[Source]) -> list[str]:
    """Why files must not stand on one page, one line a pair of them; empty where they are of one machine."""
    found = []
    for one, other in combinations(sources, 2):
        if differing := same_machine(one.fingerprint, other.fingerprint):
            found.append(f"{one.path!r} and {other.path!r} are of different machines ({', '.join(differing)} differ)")
    return found


def _read(path: Path) -> Figures:
    writers = [writer for writer, _ in READERS.values()]
    kind = kind_of(path, writers)
    if kind == "run":
        with path.open("rb") as file:
            kind = str(json.loads(file.readline()).get("workload", kind))
    if kind not in READERS:
        raise UserError(f"{str(path)!r} is no run of {' or '.join(writers)}; give .jsonl files that they wrote")
    return READERS[kind][1](path)


def _source(run: Any, path: Path, writer: str, model: str, device: str, threads: int) -> Source:
    return Source(
        path=str(path),
        writer=writer,
        command=run.command,
        started=run.started,
        model=model,
        device=device,
        threads=threads,
        fingerprint=run.fingerprint,
        is_complete=run.is_complete,
    )


def _milliseconds(rounds: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(ns / 1e6 for ns in round_) for round_ in rounds if round_)


def _fault(record: Timed, is_judged: bool, is_implausible: bool, boundary: str) -> str:
    """Why the time of a measured cell is not that of the model on the device; "" where it is."""
    if record.status != "ok":
        return ""
    if not is_judged:
        return COMPUTES_NOTHING
    if record.verdict not in SAME_MODEL:
        return f"parity {record.verdict or 'unjudged'}"
    if is_implausible:
        return "implausible: below the time that this machine's peak allows"
    return "" if boundary == "device" else "its time holds the copies of --boundary host"


def _of_compare(path: Path) -> Figures:
    from bench.runfile import read_run

    run = read_run(path)
    source = _source(run, path, "bench compare", run.grid.model, run.grid.device, run.grid.threads)
    records = [record for record in run.records if record.copy == 1]
    cells = tuple(_of_record(run, source, record) for record in records)
    held = {}
    cached = {}
    for record in records:
        loaded = record.memory.get("loaded", {})
        if "parameters_bytes" in loaded:
            process = loaded.get("process_bytes" if source.device == CPU else "device_process_bytes")
            label = record.contestant.label
            held[label, record.precision] = Held(
                source, record.model, label, record.precision, loaded["parameters_bytes"], process
            )
        size = record.memory.get("key_value_bytes_per_sequence")
        if size is not None and record.precision == PRECISION:
            cached[record.length] = Cached(record.model, record.length, size)
    return Figures((source,), cells, held=tuple(held.values()), cached=tuple(cached.values()))


def _of_record(run: Run, source: Source, record: Record) -> Figure:
    naive = statistics.pooled(record.naive_rounds)
    peak = record.memory.get("peak", {})
    return Figure(
        source=source,
        kind=SHAPES,
        model=record.model,
        backend=record.contestant.label,
        precision=record.precision,
        batch=record.batch,
        length=record.length,
        order=None,
        status=record.status,
        rounds_ms=_milliseconds(record.rounds),
        is_interleaved=record.turns == "interleaved",
        is_tainted=bool(run.taint(record)),
        fault=_fault(record, record.judged, run.is_implausible(record), run.grid.boundary),
        naive_ms=statistics.median(naive) / 1e6 if naive else None,
        peak_bytes=peak.get("peak_allocated_bytes" if source.device == CUDA else "peak_process_bytes"),
    )


def _of_corpus(path: Path) -> Figures:
    from bench.run.file import read_run

    run = read_run(path)
    options: Any = run.options
    source = _source(run, path, "bench corpus", run.model.name, options.kind, options.settled_threads)
    sentences = len(options.corpus.lengths)
    cells = tuple(
        Figure(
            source=source,
            kind=CORPUS,
            model=run.model.name,
            backend=record.candidate.label,
            precision=record.candidate.precision,
            batch=record.point.batch,
            length=None,
            order=record.point.order,
            status=record.status,
            rounds_ms=_milliseconds([[ns / sentences for ns in round_] for round_ in record.rounds]),
            is_interleaved=record.is_interleaved,
            is_tainted=bool(run.disturbances(record)),
            fault=_fault(record, record.is_judged, False, options.boundary),
        )
        for record in run.records
        if record.candidate.copy == 1
    )
    return Figures((source,), cells)


def _of_generation(path: Path) -> Figures:
    from bench.run.file import read_run
    from bench.workloads.generate import DECODE, Generate

    run = read_run(path)
    assert isinstance(run.workload, Generate)
    asked = run.workload.options
    source = _source(run, path, "bench generate", run.model.name, asked.kind, asked.settled_threads)
    generations = tuple(
        Generation(
            source=source,
            model=run.model.name,
            backend=record.candidate.label,
            precision=record.candidate.precision,
            batch=record.point.batch,
            new_tokens=asked.new_tokens,
            decoding=asked.choice.kind,
            status=record.status,
            way=record.figures.get("way", ""),
            rounds_ms=_milliseconds(record.rounds),
            step_rounds_ms=_milliseconds(record.rounds_ns(DECODE)),
            is_tainted=bool(run.disturbances(record)),
            fault=_fault(record, record.is_judged, run.is_implausible(record), "device"),
        )
        for record in run.records
        if record.candidate.copy == 1
    )
    return Figures((source,), generations=generations)


def _of_memory(path: Path) -> Figures:
    from bench.run.batch_search import bytes_per_sequence
    from bench.run.file import read_run
    from bench.run.held import context_bytes, loaded
    from exporters.sources import KeysAndValues

    run = read_run(path)
    options: Any = run.options
    source = _source(run, path, "bench memory", run.model.name, options.kind, options.settled_threads)
    measured = [record for record in run.records if record.candidate.copy == 1]
    held = tuple(
        Held(
            source, run.model.name, record.candidate.label, record.candidate.precision, parameters,
            run.process_bytes(record), context_bytes(run, record),
        )
        for record in measured
        if record.point.length is None and (parameters := loaded(record, "parameters_bytes")) is not None
    )  # fmt: skip
    stored = tuple(
        Stored(source, run.model.name, record.point.length, found)
        for record in measured
        if record.point.length is not None
        and (record.candidate.variant, record.candidate.precision) == ("grad", PRECISION)
        and (found := bytes_per_sequence(record, "stored_bytes")) is not None
    )
    noted = run.notes.get("keys_and_values")
    decoder = KeysAndValues(**noted) if noted else None
    cached = tuple(
        Cached(run.model.name, length, decoder.bytes(length, PRECISION))
        for length in options.lengths
        if decoder is not None
    )
    return Figures((source,), held=held, stored=stored, cached=cached)


#: By workload, or by the word under "kind" in an older file: the command that writes it, and what reads it.
READERS: Mapping[str, tuple[str, Callable[[Path], Figures]]] = {
    "run": ("bench compare", _of_compare),
    "corpus": ("bench corpus", _of_corpus),
    "generate": ("bench generate", _of_generation),
    "memory": ("bench memory", _of_memory),
}
