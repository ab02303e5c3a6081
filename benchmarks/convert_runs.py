"""Convert runs of schemas 1 to 4, which had a format for each command, to schema 5.

    python benchmarks/convert_runs.py FILE...

Each file is replaced by its conversion, sealed if the run was complete; the old one stays beside it as FILE.old. What
else went on was noted once for a cell and is noted for each turn now: it stands in the first turn of the cell. Figures
that are counted from samples are not carried over.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.packing import Packing, Summary
from bench.process.decoding import Decoding
from bench.run.file import RunFile
from bench.run.record import Model, Once, Record, Run, Turn
from bench.spec import AUTO, MODULE, Shape
from bench.workloads.corpus import Corpus, CorpusOptions
from bench.workloads.forward import Forward, ForwardOptions
from bench.workloads.generate import Batch, Generate, GenerateOptions
from bench.workloads.load import Load, LoadOptions, Rate
from bench.workloads.passes import OneByOne
from benchmarks.convert_untimed import candidate_of, memory, parity
from exporters import sources

Lines = list[dict[str, Any]]
#: Conditions of a cell that a turn names otherwise.
RENAMED_OF_GPU = {
    "min_sm_clock_mhz": "sm_clock_mhz",
    "min_memory_clock_mhz": "memory_clock_mhz",
    "max_temperature_celsius": "temperature_celsius",
    "max_power_watts": "power_watts",
    "throttle_reasons": "throttle_reasons",
    "other_processes": "other_processes",
}


def common(header: Mapping[str, Any]) -> dict[str, Any]:
    """Options that every kind had."""
    grid, plan = header["grid"], header["plan"]
    candidates = [candidate_of(one) for one in grid["contestants"]]
    is_module = grid.get("weights") == MODULE
    return {
        "model": grid["model"],
        "module": grid["model"] if is_module else None,
        "backends": tuple(dict.fromkeys(one.label for one in candidates)),
        "precisions": tuple(dict.fromkeys(one.precision for one in candidates)),
        "baseline": candidates[0].label,
        "device": grid["device"],
        "threads": grid["threads"],
        "weights": "auto" if is_module else grid.get("weights", "auto"),
        "task": grid.get("task", "base"),
        "tf32": grid.get("tf32", False),
        "seed": grid.get("seed", 0),
        "timeout": plan["timeout_seconds"],
        "python": tuple(f"{place}={path}" for place, path in grid.get("pythons", ())),
    }


def model_of(header: Mapping[str, Any], records: Lines) -> Model:
    """The model of a run; "random" or "pretrained" is what its records say."""
    grid = header["grid"]
    weights = next((one["weights"] for one in records if one.get("weights")), grid.get("weights", ""))
    if weights == "auto":  # of kinds whose records did not say
        weights = "random" if header["origin"].startswith("seeded random") else "pretrained"
    return Model(grid["model"], header["origin"], weights, header["checkpoint"], grid.get("task", "base"))


def forward(header: Mapping[str, Any], lines: Lines) -> Run:
    """A run of `bench compare`."""
    grid, plan = header["grid"], header["plan"]
    records = [line for line in lines if line["kind"] == "record"]
    shapes = [Shape(**one) for one in grid["shapes"]]
    is_auto = grid.get("batches") == AUTO
    product = {Shape(batch, length) for batch in {s.batch for s in shapes} for length in {s.length for s in shapes}}
    sizes: dict[str, Any] = {"lengths": tuple(sorted({shape.length for shape in shapes}))}
    sizes["batches"] = AUTO if is_auto else tuple(sorted({shape.batch for shape in shapes}))
    if not is_auto and set(shapes) != product:
        sizes["shapes"] = tuple((shape.batch, shape.length) for shape in shapes)
    budget = header.get("budget")
    options = ForwardOptions(
        **common(header),
        **sizes,
        rounds=plan["rounds"],
        max_seconds_per_cell=plan["seconds_per_cell"],
        target_precision=plan.get("target_precision"),
        naive_timer=plan.get("naive_timer", False),
        boundary=grid.get("boundary", "device"),
        warmup=plan["warmup_seconds"],
        max_warmup=plan.get("warmup_most_seconds", plan["warmup_seconds"]),
        budget=budget["seconds"] if budget else None,
        preset=header.get("preset", {}).get("name"),
    )
    run = begun(Forward(options), header, records)
    if budget:
        points = list(run.workload.points())
        run.notes["budget"] = [points.index(Shape(**one)) for one in budget["kept"]]
    for name in ("preset", "published"):
        if header.get(name):
            run.notes[name] = header[name]
    kinds = {
        "wall": "rounds",
        "device": "device_rounds",
        "enqueue": "enqueue_rounds",
        "pipelined": "pipelined_rounds",
        "naive": "naive_rounds",
    }
    for line in records:
        run.records.append(record_of(line, Shape(line["batch"], line["length"]), kinds))
    return ended(run, lines)


def corpus(header: Mapping[str, Any], lines: Lines) -> Run:
    """A run of `bench corpus`; raises UserError if its sentences come out in other batches than it had."""
    plan, told = header["corpus_plan"], header["corpus"]
    records = [line for line in lines if line["kind"] == "record"]
    given = given_in(header["command"])
    architecture = sources.ARCHITECTURES.get(header["grid"]["model"])
    summary = Summary(**{**told, "lengths": tuple(told["lengths"])})
    options = CorpusOptions(
        **common(header) | {"baseline": None},
        texts=given.get("--texts"),
        lengths_from=given.get("--lengths-from"),
        synthetic=int(given["--synthetic"]) if "--synthetic" in given else None,
        sentences=int(given["--sentences"]) if "--sentences" in given else None,
        tokenizer=given.get("--tokenizer"),
        max_tokens=int(given["--max-tokens"]) if "--max-tokens" in given else None,
        batches=tuple(plan["batches"]),
        orders=tuple(plan["orders"]),
        bucket=plan["bucket"],
        max_shapes=plan["most_shapes"],
        rounds=plan["rounds"],
        boundary=header["grid"].get("boundary", "device"),
        warmup=header["plan"]["warmup_seconds"],
        cpu_run=given.get("--baseline"),
        corpus=summary,
        positions=architecture.positions if architecture else summary.most_tokens,
        one_by_one=one_by_one(header["baseline"]) if header["baseline"] else None,
    )
    run = begun(Corpus(options), header, records)
    run.model = replace(run.model, positions=options.positions)
    for line in records:
        point = Packing(line["batch"], line["order"])
        packed = options.packed(point)
        if (packed.positions, len(packed.batches)) != (line["positions"], line["batches"]):
            raise UserError(f"the sentences make other batches at {point} than the run had")
        record = record_of(line | {"rounds": [[ns] for ns in line["rounds_ns"]]}, point, {"wall": "rounds"})
        run.records.append(record)
    return ended(run, lines)


def one_by_one(data: Mapping[str, Any]) -> OneByOne:
    """Eager at batch 1 on the CPU, as a header held it."""
    line = data["record"]
    rounds = tuple((ns,) for ns in line["rounds_ns"])
    verdict = line["parity"].get("verdict", "")
    judged = line.get("judged", True)
    return OneByOne(candidate_of(line), rounds, verdict, judged, data["machine"], data["threads"], data["started"])


def given_in(command: str) -> dict[str, str]:
    """Options of a command line with their values."""
    words = shlex.split(command)
    return {option: value for option, value in pairwise(words) if option.startswith("--")}


def load(header: Mapping[str, Any], lines: Lines) -> Run:
    """A run of `bench load`."""
    asked, traffic = header["load"], header["traffic"]
    records = [line for line in lines if line["kind"] == "record"]
    levels = ",".join(f"p{one['rank']}={one['limit_ns'] / 1e6:g}ms" for one in asked["slos"])
    options = LoadOptions(
        **common(header),
        rate=asked["rate"],
        duration=asked["duration_seconds"],
        rounds=asked["rounds"],
        batching=asked["batching"],
        slo=levels or None,
        search=asked["search_requests"] is not None or not levels,
        search_requests=asked["search_requests"],
        bucket=asked["bucket"],
        max_shapes=asked["most_shapes"],
        traffic=traffic["source"] if traffic["is_given"] else None,
        served=tuple((batch, length, count) for batch, length, count in traffic["counts"]),
        served_from=traffic["source"],
    )
    run = begun(Load(options), header, records)
    kinds = {"latency": "rounds_ns", "waits": "waits_ns", "due": "due_ns"}
    for line in records:
        figures = {"shapes": line["shapes"], "warmed": line["warmed"]}
        run.records.append(record_of(line, Rate(line["step"], line["rate"]), kinds, figures))
    return ended(run, lines)


def generate(header: Mapping[str, Any], lines: Lines) -> Run:
    """A run of `bench generate`."""
    asked, plan = header["generation"], header["plan"]
    records = [line for line in lines if line["kind"] == "record"]
    decoding = asked["decoding"]
    options = GenerateOptions(
        **common(header),
        batches=tuple(header["batches"]),
        prompt_length=asked["prompt_length"],
        new_tokens=asked["new_tokens"],
        decoding=Decoding(**decoding).option,
        top_k=decoding["top_k"],
        temperature=decoding["temperature"],
        rounds=plan["rounds"],
        max_seconds_per_cell=plan["seconds_per_cell"],
        target_precision=plan["target_precision"],
        warmup=plan["warmup_seconds"],
        max_warmup=plan["warmup_most_seconds"],
    )
    run = begun(Generate(options), header, records)
    kinds = {"wall": "rounds", "first_token": "first_token_rounds", "decode": "decode_rounds"}
    for line in records:
        memory = dict(line.get("memory", {}))
        figures = {"way": line["way"], "tokens": line["tokens"], "cache_bytes": memory.pop("cache", None)}
        held = {name: value for name, value in figures.items() if value not in (None, [])}
        run.records.append(record_of({**line, "memory": memory}, Batch(line["batch"]), kinds, held))
    return ended(run, lines)


#: By the word under "kind" in a header.
KINDS: dict[str, Callable[[Mapping[str, Any], Lines], Run | list[Run]]] = {
    "run": forward,
    "corpus": corpus,
    "load": load,
    "generation": generate,
    "memory": memory,
    "parity": parity,
}


def begun(workload: Any, header: Mapping[str, Any], records: Lines) -> Run:
    """A run without records."""
    candidates = tuple(candidate_of(one) for one in header["grid"]["contestants"])
    model = model_of(header, records)
    return Run(workload, model, candidates, header["fingerprint"], header["started"])


def ended(run: Run, lines: Lines) -> Run:
    """`run` with what its last lines noted."""
    for line in lines:
        if line["kind"] == "peaks":
            run.notes["peaks"] = line["peaks"]
        elif line["kind"] == "spent":
            run.notes["spent_seconds"] = line["seconds"]
        elif line["kind"] == "end":
            run.is_complete = True
            if line.get("parent_cpu_share") is not None:
                run.notes["parent_cpu_share"] = line["parent_cpu_share"]
    return run


def record_of(
    line: Mapping[str, Any], point: Any, kinds: Mapping[str, str], figures: Mapping[str, Any] | None = None
) -> Record:
    """A record, its samples in turns. `kinds` are names of lists of rounds by kind of time."""
    rounds = {kind: line.get(name) or [] for kind, name in kinds.items()}
    count = max((len(found) for found in rounds.values()), default=0)
    turns = [
        Turn(place, {kind: found[place] for kind, found in rounds.items() if place < len(found)})
        for place in range(count)
    ]
    if turns and line.get("conditions"):
        turns[0] = Turn(0, turns[0].times_ns, conditions=of_one_turn(line["conditions"]))
    return Record(
        point=point,
        candidate=candidate_of(line),
        status=line["status"],
        reason=line.get("reason", ""),
        turns=tuple(turns),
        figures=dict(figures or {}),
        once=Once(
            export_seconds=line.get("export_seconds"),
            load_seconds=line.get("load_seconds"),
            first_call_ns=line.get("first_call_ns") or line.get("first_calls_ns"),
            warmup_ns=line.get("warmup_ns", []),
            is_stable="warm-up" not in line.get("unmet", ()),
            calls_per_sample=line.get("calls_per_sample", 1),
        ),
        parity=line.get("parity", {}),
        memory=line.get("memory", {}),
        operations=line.get("operations", {}),
        facts=line.get("facts", {}),
        failure=line.get("failure", {}),
        is_judged=line.get("judged", True),
        is_interleaved=line.get("turns", "interleaved") == "interleaved",
    )


def of_one_turn(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of all turns of a cell as those of one, of which the summary is the same."""
    other, share = summary.get("other_cpu_seconds"), summary.get("other_cpu_share")
    cpu = None if other is None else other / share if share else 1e9 if other else summary["wall_seconds"]
    throttled = summary.get("quota_throttled_share")
    found = {
        "wall_seconds": summary["wall_seconds"],
        "cpu_seconds": cpu,
        "other_cpu_seconds": other,
        "steal_seconds": summary.get("steal_seconds"),
        "thermal_events": summary.get("thermal_events"),
        "throttled_periods": None if throttled is None else throttled * 1e6,
        "quota_periods": None if throttled is None else 1e6,
    }
    if gpu := summary.get("gpu"):
        found["gpu"] = {name: gpu.get(old) for old, name in RENAMED_OF_GPU.items()}
        for name in ("power_throttled", "thermal_throttled"):
            seconds = gpu.get(f"{name}_seconds")
            found["gpu"][f"{name}_ns"] = None if seconds is None else round(seconds * 1e9)
    return found


def convert(path: Path) -> list[Run]:
    """Replace the file at `path`, of several models by one file each; raises UserError for one of no kind that was."""
    lines = _lines(path.read_text())
    header = lines[0] if lines else {}
    if header.get("kind") not in KINDS or "workload" in header:
        raise UserError(f"{str(path)!r} is of no kind that is converted; known are {', '.join(KINDS)}")
    made = KINDS[header["kind"]](header, lines[1:])
    runs = [made] if isinstance(made, Run) else made
    path.rename(path.with_name(f"{path.name}.old"))
    for run in runs:
        model = f"-{Path(run.model.name).name}" if len(runs) > 1 else ""
        run.path = path.with_name(f"{path.stem}{model}.jsonl")
        file = RunFile(run)
        file.go_on()
        if run.is_complete:
            file.seal()
    return runs


def _lines(text: str) -> Lines:
    """Lines of JSON, or the one object of a certificate."""
    try:
        return [json.loads(text)]
    except ValueError:
        lines: Lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # torn: the writer was stopped half-way
                break
        return lines


def main(paths: Iterable[str]) -> None:
    """Convert every file, and say what became of it."""
    for name in paths:
        for run in convert(Path(name)):
            print(f"{run.path}: {run.workload.name}, {len(run.records)} records")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    main(parser.parse_args().files)
