"""Runs that the tests of the study share: sentences, grids, generations and memory, with the figures that they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.packing import Packing, Summary
from bench.run.record import Model, Record, Run, Turn
from bench.spec import Shape
from bench.workloads.corpus import Corpus
from bench.workloads.generate import Batch, Generate
from bench.workloads.memory import Extent, Memory
from tests import made

GIB, MIB = 2**30, 2**20
STEADY, NOISY = (0.998, 0.999, 1.0, 1.001, 1.002), (0.7, 0.85, 1.0, 1.15, 1.4)
FORMATS = ("eager", "torchscript", "onnx")
MACHINE: dict[str, dict[str, Any]] = {
    "cpu": {"gpus": []},
    "cuda": {"gpus": [{"name": "NVIDIA H100 80GB HBM3", "total_bytes": 80 * GIB}]},
}


def record(label: str, point: Any, ms: float, noise: tuple[float, ...] = STEADY, **values: Any) -> Record:
    return made.record(label, point, ms=[[ms * factor] for factor in noise], **values)


def run_of(records: list[Record], workload: Any = None, device: str = "cpu", model: str = "bert", **given: Any) -> Run:
    named = Model(model, "seeded random (seed 0)", "random", "c0ffee", "base", 512)
    given = {"fingerprint": MACHINE[device], "model": named, "device": device} | given
    return made.run_of(records, **({} if workload is None else {"workload": workload}), **given)


def sentences(times: Mapping[tuple[str, int], float], order: str = "unsorted", **values: Any) -> Run:
    """A run of sentences: ms a sentence by backend and batch; `values` of each record, or of the run."""
    of_run = {name: values.pop(name) for name in ("device", "model", "fingerprint") if name in values}
    records = [record(name, Packing(batch, order), 10 * ms, **values) for (name, batch), ms in times.items()]
    run = run_of(records, Corpus, **of_run)
    run.workload = Corpus(replace(run.options, corpus=Summary("ten", (5,) * 10, "a")))
    return run


def padded(times: Mapping[tuple[str, int, int], float], /, **values: Any) -> Run:
    """A grid: ms a call by backend, batch and length."""
    of_run = {name: values.pop(name) for name in ("device", "model", "fingerprint", "boundary") if name in values}
    records = [record(name, Shape(*shape), ms, **values) for (name, *shape), ms in times.items()]
    return run_of(records, **of_run)


def forms(batch: int, *times: float) -> dict[tuple[str, int], float]:
    return {(name, batch): ms for name, ms in zip(FORMATS, times, strict=False)}


def generation(
    model: str, step_ms: float, seconds: float = 1, device: str = "cuda", backend: str = "eager", batch: int = 1,
    others: tuple[Record, ...] = (), verdict: str = "equivalent", way: str = "cache", **options: Any,
) -> Run:  # fmt: skip
    one = record(backend, Batch(batch), 1e3 * seconds, times={"decode": step_ms}, figures={"way": way}, verdict=verdict)
    options = {"new_tokens": 512, "decoding": "sample"} | options
    return run_of([*others, one], Generate, device, model, **options)


def memory(
    device: str, model: str, parameters: int = 1353 * MIB, process: int | None = 2093 * MIB, context: int = 713 * MIB,
    stored: int = 435 * MIB, **options: Any,
) -> Run:  # fmt: skip
    """A run of memory with a loaded model, and a search in which autograd keeps `stored` a sequence."""
    held = {"parameters_bytes": parameters}
    if process is not None:
        name = "device_process_bytes" if device == "cuda" else "process_bytes"
        held |= {name: process, "reserved_bytes": process - context}
    tries = [{"batch": batch, "fits": True, "stored_bytes": batch * stored + 12_345} for batch in (4, 10)]
    turns = tuple(Turn(place, figures=figures) for place, figures in enumerate(tries))
    records = [
        Record(Extent(), made.candidate("eager"), "ok", memory={"loaded": held}),
        Record(Extent(512), made.candidate("eager:grad"), "ok", turns=turns),
    ]
    return run_of(records, Memory, device, model, lengths=[512], **options)
