"""The file of passes over a corpus: JSON Lines, a header and one line a record.

Schema history
1  (0.1.0)  {"kind": "corpus"} header with grid, plan, corpus_plan, corpus (lengths and checksum), baseline and
            fingerprint; {"kind": "record"} a cell; {"kind": "end"} when all planned cells have their record.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.corpora.plan import CorpusPlan
from bench.corpora.records import SCHEMA, Baseline, CorpusRecord, CorpusRun
from bench.corpora.sentences import CorpusSummary
from bench.damage import check_figures, check_objects, check_texts, damage_told, is_count
from bench.linesfile import read_lines
from bench.records import STATUSES
from bench.spec import Grid, TimingPlan

WRITER = "bench corpus"


def record_line(record: CorpusRecord) -> dict[str, Any]:
    """A record as its line of the file."""
    return {"kind": "record", **asdict(record)}


def read_corpus_run(path: str | Path) -> CorpusRun:
    """The passes in a file; a torn last line is left out. Raises UserError when it is no such file."""
    lines = read_lines(Path(path), "corpus", SCHEMA, WRITER)
    header = lines[0]
    with damage_told(path):
        run = CorpusRun(
            grid=Grid.from_json(header["grid"]),
            plan=TimingPlan(**header["plan"]),
            corpus_plan=CorpusPlan.from_json(header["corpus_plan"]),
            corpus=CorpusSummary.from_json(header["corpus"]),
            fingerprint=header["fingerprint"],
            origin=header["origin"],
            checkpoint=header["checkpoint"],
            command=header["command"],
            started=header["started"],
            baseline=Baseline.from_json(header["baseline"]) if header["baseline"] else None,
            path=Path(path),
        )
        _check_header(run)
        for line in lines[1:]:
            if line["kind"] == "record":
                record = CorpusRecord(**{key: value for key, value in line.items() if key != "kind"})
                _check_place(record, run)
                _check_record(record)
                run.records.append(record)
            elif line["kind"] == "end":
                run.is_complete = True
                run.parent_cpu_share = line.get("parent_cpu_share")
    return run


def _check_header(run: CorpusRun) -> None:
    texts = (run.origin, run.checkpoint, run.command, run.started, run.grid.model, run.grid.device, run.corpus.source)
    check_texts(texts, run.fingerprint)
    if not is_count(run.corpus.truncated):
        raise TypeError("truncated sentences that are no count")
    if run.baseline is not None:
        _check_record(run.baseline.record)
        if run.baseline.record.status != "ok":
            raise ValueError("a baseline that was not measured")


def _check_place(record: CorpusRecord, run: CorpusRun) -> None:
    """Raise ValueError where a record is none of `run`'s."""
    if record.packing not in run.corpus_plan.packings or record.contestant not in run.grid.contestants:
        raise ValueError(f"a record of {record.contestant.label} at {record.packing} is none of the planned cells")
    if run.record(record.packing, record.contestant) is not None:
        raise ValueError(f"two records of {record.contestant.label} at {record.packing}")
    if record.sentences != len(run.corpus.lengths) or record.tokens != sum(run.corpus.lengths):
        raise ValueError("a record of another corpus")


def _check_record(record: CorpusRecord) -> None:
    """Raise ValueError or TypeError where a record holds what no measurement gives."""
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    counts = (record.sentences, record.batches, record.shapes, record.calls_per_sample, record.batch, record.tokens)
    if not all(is_count(count) and count > 0 for count in counts):
        raise ValueError("sentences, batches, shapes or calls that are no counts")
    if not is_count(record.positions) or record.positions < record.tokens:
        raise ValueError("fewer positions than tokens")
    if not all(is_count(ns) and ns > 0 for ns in record.rounds_ns):
        raise ValueError("rounds that are no nanoseconds")
    if (record.status == "ok") != bool(record.rounds_ns):
        raise ValueError("a measured cell without rounds, or rounds of one that was not")
    check_objects(record.parity, record.facts, record.failure, record.memory, record.conditions)
    held = [record.memory.get("loaded", {}), record.memory.get("peak", {})]
    if not all(isinstance(group, dict) and all(map(is_count, group.values())) for group in held):
        raise TypeError("memory that is no count of bytes")
    figures = [record.first_calls_ns, record.load_seconds, record.export_seconds, record.parity.get("max_abs_error")]
    figures += [record.facts.get(name) for name in ("graphs", "compile_seconds", "recompiles_while_timing")]
    check_figures(record.conditions, *figures)
