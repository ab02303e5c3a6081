"""Files of results as flat figures: the one module that knows how the commands' files are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from bench import statistics
from bench.errors import UserError
from bench.machine import same_machine
from bench.run.file import read_run
from bench.run.record import SAME_MODEL, Record, Run
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
    run = read_run(path)
    if run.workload.name not in READERS:
        writers = " or ".join(writer for writer, _ in READERS.values())
        raise UserError(f"{str(path)!r} is no run of {writers}; give .jsonl files that they wrote")
    writer, read = READERS[run.workload.name]
    return read(run, _source(run, path, writer))


def _source(run: Run, path: Path, writer: str) -> Source:
    return Source(
        path=str(path),
        writer=writer,
        command=run.command,
        started=run.started,
        model=run.model.name,
        device=run.options.kind,
        threads=run.options.settled_threads,
        fingerprint=run.fingerprint,
        is_complete=run.is_complete,
    )


def _milliseconds(rounds: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(ns / 1e6 for ns in round_) for round_ in rounds if round_)


def _fault(run: Run, record: Record, boundary: str = "device") -> str:
    """Why the time of a measured cell is not that of the model on the device; "" where it is."""
    if record.status != "ok":
        return ""
    if not record.is_judged:
        return COMPUTES_NOTHING
    if record.verdict not in SAME_MODEL:
        return f"parity {record.verdict or 'unjudged'}"
    if run.is_implausible(record):
        return "implausible: below the time that this machine's peak allows"
    return "" if boundary == "device" else "its time holds the copies of --boundary host"


def _of_forward(run: Run, source: Source) -> Figures:
    options: Any = run.options
    records = [record for record in run.records if record.candidate.copy == 1]
    cells = []
    held = {}
    cached = {}
    for record in records:
        naive = statistics.pooled(record.rounds_ns("naive"))
        peak = record.memory.get("peak", {})
        figure = _timed(run, source, record, SHAPES, record.rounds, options.boundary)
        cells.append(
            replace(
                figure,
                length=record.point.length,
                naive_ms=statistics.median(naive) / 1e6 if naive else None,
                peak_bytes=peak.get("peak_allocated_bytes" if source.device == CUDA else "peak_process_bytes"),
            )
        )
        loaded = record.memory.get("loaded", {})
        precision = record.candidate.precision
        if "parameters_bytes" in loaded:
            process = loaded.get("process_bytes" if source.device == CPU else "device_process_bytes")
            held[figure.backend, precision] = Held(
                source, run.model.name, figure.backend, precision, loaded["parameters_bytes"], process
            )
        size = record.memory.get("key_value_bytes_per_sequence")
        if size is not None and precision == PRECISION:
            cached[figure.length] = Cached(run.model.name, record.point.length, size)
    return Figures((source,), tuple(cells), held=tuple(held.values()), cached=tuple(cached.values()))


def _timed(
    run: Run, source: Source, record: Record, kind: str, rounds_ns: Sequence[Sequence[float]], boundary: str
) -> Figure:
    """What a timed cell of any workload says."""
    return Figure(
        source=source,
        kind=kind,
        model=run.model.name,
        backend=record.candidate.label,
        precision=record.candidate.precision,
        batch=record.point.batch,
        length=None,
        order=None,
        status=record.status,
        rounds_ms=_milliseconds(rounds_ns),
        is_interleaved=record.is_interleaved,
        is_tainted=bool(run.disturbances(record)),
        fault=_fault(run, record, boundary),
    )


def _of_corpus(run: Run, source: Source) -> Figures:
    options: Any = run.options
    sentences = len(options.corpus.lengths)
    cells = []
    for record in run.records:
        if record.candidate.copy == 1:
            rounds = [[ns / sentences for ns in round_] for round_ in record.rounds]
            figure = _timed(run, source, record, CORPUS, rounds, options.boundary)
            cells.append(replace(figure, order=record.point.order))
    return Figures((source,), tuple(cells))


def _of_generation(run: Run, source: Source) -> Figures:
    from bench.workloads.generate import DECODE, Generate

    assert isinstance(run.workload, Generate)
    asked = run.workload.options
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
            fault=_fault(run, record),
        )
        for record in run.records
        if record.candidate.copy == 1
    )
    return Figures((source,), generations=generations)


def _of_memory(run: Run, source: Source) -> Figures:
    from bench.run.batch_search import bytes_per_sequence
    from bench.run.held import context_bytes, loaded
    from exporters.sources import KeysAndValues

    options: Any = run.options
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


#: By workload: the command that measures it, and what reads its runs.
READERS: Mapping[str, tuple[str, Callable[[Run, Source], Figures]]] = {
    "forward": ("bench compare", _of_forward),
    "corpus": ("bench corpus", _of_corpus),
    "generate": ("bench generate", _of_generation),
    "memory": ("bench memory", _of_memory),
}
