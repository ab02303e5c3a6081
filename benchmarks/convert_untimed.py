"""Conversions of runs of memory and of certificates, of which nothing is timed; see convert_runs.py."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from bench.parity.matrix import PROMPT_LENGTH
from bench.parity.verdict import badness
from bench.run.record import Model, Once, Record, Run, Turn
from bench.spec import MODULE, Candidate
from bench.workloads.memory import Extent, Memory, MemoryOptions
from bench.workloads.parity import Check, Parity, ParityOptions

Lines = list[dict[str, Any]]


def candidate_of(data: Mapping[str, Any]) -> Candidate:
    """The candidate that a record or an entry of a grid names."""
    names = ("backend", "variant", "precision", "copy", "environment")
    return Candidate(**{name: data[name] for name in names if name in data})


def memory(header: Mapping[str, Any], lines: Lines) -> list[Run]:
    """A run of `bench memory`, one for each of its models."""
    words = shlex.split(header["command"])
    asked = dict(pairwise(words))
    is_module = "--module" in asked
    found = []
    for subject in header["subjects"]:
        name, of_model = subject["name"], [line for line in lines if line.get("model") == subject["name"]]
        candidates = tuple(dict.fromkeys(candidate_of(line) for line in of_model))
        options = MemoryOptions(
            model=name,
            module=name if is_module else None,
            backends=tuple(asked["--backends"].split(",")),
            precisions=tuple(header["precisions"]),
            device=header["device"],
            threads=header["threads"],
            weights=asked.get("--weights", "auto"),
            task=header["task"],
            tf32=header.get("tf32", False),
            seed=int(asked["--seed"]),
            timeout=float(asked["--timeout"]),
            python=tuple(after for word, after in pairwise(words) if word == "--python"),
            lengths=tuple(subject["lengths"]),
            largest_batch=header["limit_bytes"] is not None,
            memory_limit=header["limit_bytes"],
            max_batch=int(asked.get("--most-batch", 4096)),
            max_seconds_per_search=float(asked.get("--max-seconds-per-search", 900.0)),
        )
        origin = subject["origin"]
        weights = MODULE if is_module else "random" if origin.startswith("seeded random") else "pretrained"
        model = Model(name, origin, weights, "", header["task"], subject["positions"])
        run = Run(Memory(options), model, candidates, header["fingerprint"], header["started"])
        run.notes["keys_and_values"] = subject["cached"]
        run.records = [loaded(line) if line["kind"] == "loaded" else searched(line) for line in of_model]
        run.is_complete = any(line["kind"] == "end" for line in lines)
        found.append(run)
    return found


def loaded(line: Mapping[str, Any]) -> Record:
    """What a model held once it was loaded."""
    before = line["before"].get("process_bytes")
    held = line["memory"] | ({} if before is None else {"process_before_bytes": before})
    return Record(
        point=Extent(),
        candidate=candidate_of(line),
        status=line["status"],
        reason=line["reason"],
        turns=(Turn(0),) if line["status"] == "ok" else (),
        once=Once(load_seconds=line["load_seconds"]),
        memory={"loaded": held} if held else {},
        facts={"versions": line.get("versions", {})},
        failure=line["failure"],
        is_judged=line["backend"] != "null",
    )


def searched(line: Mapping[str, Any]) -> Record:
    """A search for the largest batch; why a batch did not fit was noted of the smallest alone."""
    is_above = line["status"] == "above-limit"
    boundary, taken = line["boundary"] or {}, {"taken_bytes": line["taken_bytes"]}
    tries: Lines = [{"batch": 1, "fits": False, "seconds": 0.0}] if is_above else line["tries"]
    turns = []
    for place, one in enumerate(tries):
        figures = {
            name: one[name] for name in ("batch", "fits", "peak_bytes", "stored_bytes") if one.get(name) is not None
        }
        if one["fits"]:
            figures |= taken
        else:
            is_told = is_above or one["batch"] == boundary.get("too_large")
            figures |= {"is_above_limit": is_above, "reason": line["reason"] if is_told else ""}
            figures["failure"] = {**line["failure"], **(taken if is_above else {})} if is_told else {}
        turns.append(Turn(place, figures=figures, seconds=one["seconds"]))
    is_ok = line["status"] == "ok" or is_above
    return Record(
        point=Extent(line["length"]),
        candidate=candidate_of(line),
        status="ok" if is_ok else line["status"],
        reason="" if is_ok else line["reason"],
        turns=tuple(turns),
        failure={} if is_ok else line["failure"],
        is_judged=line["backend"] != "null",
    )


def parity(certificate: Mapping[str, Any], lines: Lines) -> Run:
    """A certificate. What was loaded had a checksum and no key."""
    grid, told = certificate["grid"], certificate["judgements"]
    asked = dict(pairwise(shlex.split(certificate["command"])))
    candidates = tuple(candidate_of(one) for one in grid["contestants"])
    pairs = [(shape["batch"], shape["length"]) for shape in grid["shapes"]]
    batches, lengths = (tuple(sorted({pair[axis] for pair in pairs})) for axis in (0, 1))
    is_module = grid["weights"] == MODULE
    options = ParityOptions(
        model=grid["model"],
        module=grid["model"] if is_module else None,
        backends=tuple(dict.fromkeys(one.label for one in candidates)),
        precisions=tuple(dict.fromkeys(one.precision for one in candidates)),
        device=grid["device"],
        threads=grid["threads"],
        weights="auto" if is_module else grid["weights"],
        task=grid["task"],
        tf32=grid.get("tf32", False),
        seed=grid["seed"],
        python=tuple(f"{place}={path}" for place, path in grid.get("pythons", ())),
        batches=batches,
        lengths=lengths,
        shapes=() if len(pairs) == len(batches) * len(lengths) else tuple(sorted(pairs)),
        masks=tuple(certificate["masks"]),
        ids=tuple(certificate["ids"]),
        tokenizer=asked.get("--tokenizer"),
        new_tokens=certificate["new_tokens"] or None,
        bisect=any(one["bisection"] for one in told),
        **certificate["overrides"],
    )
    origin = certificate["origin"]
    weights = MODULE if is_module else "random" if origin.startswith("seeded random") else "pretrained"
    model = Model(grid["model"], origin, weights, "", grid["task"])
    run = Run(Parity(options), model, candidates, certificate["fingerprint"], certificate["started"])
    run.notes = {
        "remarks": [line for line in certificate["notes"] if "eager's own rounding is up to" not in line],
        "weights_checksum": certificate["weights_checksum"],
        "tokenizer_sha256": certificate["tokenizer"],
        "artifacts": {str(at): {"key": "", **one["artifact"]} for at, one in enumerate(told) if one["artifact"]},
    }
    if found := {str(place): one["bisection"] for place, one in enumerate(told) if one["bisection"]}:
        run.notes["bisections"] = found
    points = [Check(*pair) for pair in pairs]
    points += [Check(1, PROMPT_LENGTH, options.new_tokens)] if options.new_tokens else []
    run.records = [judged(one, point) for one in told for point in points]
    run.is_complete = True
    return run


def judged(told: Mapping[str, Any], point: Check) -> Record:
    """What became of one candidate at one point."""
    if point.new_tokens:
        entries = {one["name"]: one for one in told["generation"]}
    else:
        of_point = [one for one in told["cases"] if (one["batch"], one["length"]) == (point.batch, point.length)]
        entries = {f"{one['ids']}-{one['mask']}" if "ids" in one else one["name"]: one for one in of_point}
    where = ("name", "batch", "length", "ids", "mask")
    cases = {name: {key: one[key] for key in one if key not in where} for name, one in entries.items()}
    ordered = sorted(cases, key=lambda name: badness(cases[name]), reverse=True)
    parity: dict[str, Any] = {}
    reason = "" if cases else told["reason"]
    if len(cases) == 1 and (only := cases[ordered[0]])["verdict"] == "unjudged":
        reason = only["reason"]
    elif cases:
        parity = {"case": ordered[0], **cases[ordered[0]], "cases": {name: cases[name] for name in ordered}}
    status, _, why = reason.partition(": ")
    is_status = status in ("unsupported", "oom", "failed", "timeout", "skipped")
    if reason and not is_status:
        parity = {"verdict": "unjudged", "reason": reason}
    return Record(
        point=point,
        candidate=candidate_of(told["contestant"]),
        status=status if is_status else "ok",  # type: ignore[arg-type]
        reason=why if is_status else "",
        turns=() if is_status else (Turn(0),),
        parity=parity,
        facts={**told["facts"], "versions": told["versions"]},
        failure=told["failure"],
    )
