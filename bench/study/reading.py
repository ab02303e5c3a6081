"""Runs as flat figures: the one module of the study that knows workloads and records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from bench import statistics
from bench.errors import UserError
from bench.machine import same_machine
from bench.run import batch_search, held
from bench.run.file import check_unaltered, read_run
from bench.run.record import SAME_MODEL, WALL, Record, Run
from bench.run.workload import Workload
from bench.study.figures import (
    CORPUS,
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
from bench.workloads.corpus import Corpus
from bench.workloads.forward import Forward
from bench.workloads.generate import DECODE, Generate
from bench.workloads.memory import Memory
from exporters.sources import KeysAndValues

COMPUTES_NOTHING = "computes nothing"


def read_figures(paths: Sequence[str | Path]) -> Figures:
    """All figures in files of `bench compare`, `corpus`, `generate` and `memory`.

    Raises UserError for a file that is none, is damaged, was altered or is given twice.
    """
    found = Figures()
    for path in map(Path, paths):
        run = read_run(path)
        check_unaltered(run)
        if type(run.workload) not in READERS:
            writers = " or ".join(f"bench {workload.Options.command}" for workload in READERS)
            raise UserError(f"{str(path)!r} is no run of {writers}; give .jsonl files that they wrote")
        source = _source(run)
        for other in found.sources:
            if (other.command, other.started) == (source.command, source.started):
                raise UserError(f"{other.path!r} and {source.path!r} are the same run; give it once")
        found += READERS[type(run.workload)](run, source)
    return found


def obstacles(sources: Sequence[Source]) -> list[str]:
    """Why files must not stand on one page, one line a pair of them; empty if they are of one machine."""
    found = []
    for one, other in combinations(sources, 2):
        if differing := same_machine(one.fingerprint, other.fingerprint):
            found.append(f"{one.path!r} and {other.path!r} are of different machines ({', '.join(differing)} differ)")
    return found


def _source(run: Run) -> Source:
    return Source(
        path=str(run.path),
        writer=f"bench {run.options.command}",
        command=run.command,
        started=run.started,
        model=run.model.name,
        device=run.options.kind,
        threads=run.options.settled_threads,
        fingerprint=run.fingerprint,
        is_complete=run.is_complete,
    )


def _records(run: Run) -> Iterator[Record]:
    """Records of the first copies, without planned cells that turned out not to be wanted."""
    return (one for one in run.records if one.candidate.copy == 1 and not run.workload.is_left_out(one))


def _milliseconds(record: Record, kind: str = WALL, over: int = 1) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(ns / 1e6 / over for ns in round_) for round_ in record.rounds_ns(kind))


def _of_any(run: Run, record: Record, source: Source) -> dict[str, Any]:
    """What a record of any workload says of its cell."""
    return {
        "source": source,
        "model": run.model.name,
        "backend": record.candidate.label,
        "precision": record.candidate.precision,
        "batch": record.point.batch,
        "status": record.status,
        "is_disturbed": bool(run.disturbances(record)),
        "fault": _fault(run, record),
    }


def _fault(run: Run, record: Record) -> str:
    """Why the time of a measured cell is not that of the model on the device; "" if it is."""
    if record.status != "ok":
        return ""
    if not record.is_judged:
        return COMPUTES_NOTHING
    if record.verdict not in SAME_MODEL:
        return f"parity {record.verdict or 'unjudged'}"
    if run.is_implausible(record):
        return "implausible: below the roofline"
    boundary = getattr(run.options, "boundary", "device")
    return "" if boundary == "device" else "its time holds the copies of --boundary host"


def _of_compare(run: Run, source: Source) -> Figures:
    cells, loaded, cached = [], {}, {}
    for record in _records(run):
        naive = statistics.pooled(record.rounds_ns("naive"))
        cells.append(
            Figure(
                **_of_any(run, record, source),
                kind=SHAPES,
                length=record.point.length,
                order=None,
                rounds_ms=_milliseconds(record),
                is_interleaved=record.is_interleaved,
                naive_ms=statistics.median(naive) / 1e6 if naive else None,
                peak_bytes=run.peak_bytes(record),
            )
        )
        if (parameters := held.loaded(record, "parameters_bytes")) is not None:
            label, precision = record.candidate.label, record.candidate.precision
            process = run.process_bytes(record)
            loaded[label, precision] = Held(source, run.model.name, label, precision, parameters, process)
        size = record.memory.get("key_value_bytes_per_sequence")
        if size is not None and record.candidate.precision == PRECISION:
            cached[record.point.length] = Cached(run.model.name, record.point.length, size)
    return Figures((source,), tuple(cells), held=tuple(loaded.values()), cached=tuple(cached.values()))


def _of_corpus(run: Run, source: Source) -> Figures:
    sentences = len(run.workload.options.corpus.lengths)
    cells = tuple(
        Figure(
            **_of_any(run, record, source),
            kind=CORPUS,
            length=None,
            order=record.point.order,
            rounds_ms=_milliseconds(record, over=sentences),
            is_interleaved=record.is_interleaved,
        )
        for record in _records(run)
    )
    return Figures((source,), cells)


def _of_generation(run: Run, source: Source) -> Figures:
    options = run.workload.options
    generations = tuple(
        Generation(
            **_of_any(run, record, source),
            new_tokens=options.new_tokens,
            decoding=options.decoding.partition(":")[0],
            way=record.figures.get("way", ""),
            rounds_ms=_milliseconds(record),
            step_rounds_ms=_milliseconds(record, DECODE),
        )
        for record in _records(run)
    )
    return Figures((source,), generations=generations)


def _of_memory(run: Run, source: Source) -> Figures:
    name, loaded, stored = run.model.name, [], []
    for record in _records(run):
        candidate, length = record.candidate, record.point.length
        parameters = held.loaded(record, "parameters_bytes")
        if length is None and record.status == "ok" and parameters is not None:
            process, context = run.process_bytes(record), held.context_bytes(run, record)
            loaded.append(Held(source, name, candidate.label, candidate.precision, parameters, process, context))
        kept = batch_search.bytes_per_sequence(record, "stored_bytes")
        if (candidate.variant, candidate.precision) == ("grad", PRECISION) and kept is not None and length is not None:
            stored.append(Stored(source, name, length, kept))
    noted = run.notes.get("keys_and_values")
    cached: list[Cached] = []
    if noted is not None:
        cache = KeysAndValues(**noted)
        lengths = sorted({*run.workload.options.lengths, *([run.model.positions] if run.model.positions else [])})
        cached = [Cached(name, length, cache.bytes(length, PRECISION)) for length in lengths]
    return Figures((source,), held=tuple(loaded), stored=tuple(stored), cached=tuple(cached))


#: What reads a run, by its workload.
READERS: Mapping[type[Workload], Callable[[Run, Source], Figures]] = {
    Forward: _of_compare,
    Corpus: _of_corpus,
    Generate: _of_generation,
    Memory: _of_memory,
}
