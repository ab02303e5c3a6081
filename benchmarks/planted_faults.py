"""Is the judge of `bench parity` to be trusted: are planted faults called broken, and sound exports not?

    python -m benchmarks.planted_faults [--models bert-tiny,gpt-tiny,gpt2-tiny] [--formats checkpoint,torchscript,onnx]
        [--precision fp32] [--seeds 3] [--sound 6] [--lengths 1,16,37] [--at-size] [--output FILE.jsonl]

Every fault of faults.py is planted in each model and exported to each format, `--seeds` times at random places; the
export is then judged by the code, inputs and limits of `bench parity` against the sound model. A fault that is not
called broken is planted larger at the same place, twofold each time, until it is (not with `--at-size`). Sound
exports are judged `--sound` times on other inputs. Goals: every fault broken, no sound export broken. `--models` takes
folders too.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import backends
from backends.base import Backend
from bench.parity import judging
from bench.parity.inputs import InputPlan
from bench.parity.matrix import DEFAULT_BATCHES, Matrix, most_rows
from bench.parity.verdict import TOLERANCES, Tolerance, coarseness, judge, worst_case
from bench.spec import Shape
from benchmarks.faults import FAULTS, Fault, TwoOutputs
from exporters import checkpoint, sources
from exporters import onnx as onnx_exporter
from exporters import torchscript as torchscript_exporter
from exporters.module_forward import DTYPES
from exporters.store import ArtifactStore

FORMATS = ("checkpoint", "torchscript", "onnx")
BACKENDS = {"checkpoint": "eager", "torchscript": "torchscript", "onnx": "onnx"}
LARGEST_SIZE = 10.0


@dataclass(frozen=True)
class Subject:
    """A sound model, and how it is judged."""

    source: sources.ModelSource
    weights: Path
    """Folder of its checkpoint."""
    shapes: tuple[Shape, ...]
    threads: int

    def module(self) -> torch.nn.Module:
        """A fresh copy in float32."""
        module: torch.nn.Module = checkpoint.open_checkpoint(self.weights, "cpu", "fp32")
        return module

    def plans(self, seed: int) -> Iterator[InputPlan]:
        """The inputs of every shape, as `bench parity` has them where there is no tokenizer."""
        matrix = Matrix(ids=("random", "zipf"))
        for shape in self.shapes:
            yield InputPlan(
                batch=shape.batch,
                length=shape.length,
                vocab_size=self.source.vocab_size,
                pad_token_id=self.source.pad_token_id,
                seed=seed,
                output_width=self.source.vocab_size if self.source.task == "lm" else self.source.width,
                cases=matrix.cases(shape),
                most_rows=most_rows(shape),
            )


def loaded(format: str, module: torch.nn.Module, precision: str, threads: int, folder: Path) -> Backend:
    """The backend of `format` with `module` exported for it into `folder`."""
    outputs = ["last_hidden_state", "before"] if _is_double(module) else ["last_hidden_state"]
    module = module.to(getattr(torch, DTYPES[precision])).eval()
    if format == "torchscript":
        metadata = torchscript_exporter.export_module(module, folder, outputs, "cpu")
    elif format == "onnx":
        metadata = onnx_exporter.export_module(module, folder, outputs)
    else:
        metadata = {"outputs": outputs}
    (folder / "artifact.json").write_text(json.dumps({"metadata": metadata}))
    backend = backends.load_class(BACKENDS[format])(open_checkpoint=lambda path, device, precision: module)
    backend.load(folder, device="cpu", precision=precision, threads=threads, options={})
    return backend


def _is_double(module: torch.nn.Module) -> bool:
    return isinstance(module, TwoOutputs)


class Judge:
    """References of one sound module, and the verdict on what was exported from another."""

    def __init__(self, subject: Subject, module: torch.nn.Module, precision: str, seed: int, root: Path) -> None:
        self.subject, self.precision, self.seed = subject, precision, seed
        self.folders = {name: Path(tempfile.mkdtemp(dir=root)) for name in ("fp64", precision)}
        for name, folder in self.folders.items():
            with tempfile.TemporaryDirectory(dir=root) as place:
                eager = loaded("checkpoint", copy.deepcopy(module), name, subject.threads, Path(place))
                for plan in subject.plans(seed):
                    target = folder / f"{plan.batch}x{plan.length}"
                    target.mkdir()
                    judging.evaluate(eager, plan, target, None)
                eager.close()

    def verdict(self, backend: Backend) -> dict[str, Any]:
        """The worst case of all, with its figures."""
        tolerance = TOLERANCES[self.precision]
        cases: dict[str, list[dict[str, Any]]] = {}
        for plan in self.subject.plans(self.seed):
            place = f"{plan.batch}x{plan.length}"
            request = {
                "eager_error": str(self.folders[self.precision] / place),
                "precision": self.precision,
                "atol": tolerance.atol,
                "rtol": tolerance.rtol,
            }
            found = judging.check(backend, plan, self.folders["fp64"] / place, request)
            cases |= {f"{place} {name}": outputs for name, outputs in found.items()}
        worst = worst_case(cases, tolerance)
        return {key: value for key, value in worst.items() if key != "cases"} | {
            "broken_cases": sum(case["verdict"] == "broken" for case in worst["cases"].values()),
            "all_cases": len(cases),
            **without_coarser_rounding(cases, tolerance),
        }


def without_coarser_rounding(cases: Mapping[str, list[dict[str, Any]]], tolerance: Tolerance) -> dict[str, Any]:
    """The verdict on the same figures by the rule without that clause, how many cases the clause lets pass, and of
    the cases beyond the rest of the rule the one that comes nearest to it: the largest of its shares of the limits.
    """
    bare = replace(tolerance, rounding=None)
    outputs = [one for found in cases.values() for one in found]
    beyond = [one for one in outputs if judge([one], bare)["verdict"] in ("lossy", "broken")]
    shares = [(share, one) for one in beyond if (share := coarseness(one, tolerance)) is not None]
    share, nearest = min(shares, key=lambda pair: pair[0], default=(None, {}))
    found = {name: nearest.get(name) for name in ("rmse_ratio", "loss", "tokens")}
    for name in ("token", "unit") if nearest else ():
        found[f"{name}_over_rmse"] = nearest[f"rmse_of_worst_{name}"] / nearest["rmse"]
    return {
        "bare_verdict": worst_case(cases, bare)["verdict"],
        "passed_cases": sum(share <= 1 for share, _ in shares),
        "coarseness": share,
        "nearest": found,
    }


def plant(fault: Fault, subject: Subject, seed: int, size: float) -> tuple[torch.nn.Module, str] | None:
    """A faulty module and what is wrong with it; the same seed is the same place whatever the size."""
    torch.manual_seed(seed)
    return fault.plant(subject.module(), random.Random(f"{fault.name} {seed}"), size)


def try_fault(
    fault: Fault, subject: Subject, format: str, precision: str, seed: int, judge: Judge, root: Path, at_size: bool
) -> dict[str, Any] | None:
    """One row: what was planted and what the judge said; larger until caught, where it has a size and may grow."""
    row: dict[str, Any] = {"kind": "fault", "fault": fault.name, "model": subject.source.name, "format": format}
    row |= {"precision": precision, "seed": seed}
    size = fault.size or 0.0
    while True:
        planted = plant(fault, subject, seed, size)
        if planted is None:
            return None
        module, what = planted
        with tempfile.TemporaryDirectory(dir=root) as place:
            backend = loaded(format, module, precision, subject.threads, Path(place))
            found = judge.verdict(backend)
            backend.close()
        if "verdict" not in row:
            row |= {"what": what, "size": fault.size, **found}
        if found["bare_verdict"] == "broken" and fault.size:
            row.setdefault("bare_caught_at", size)
        is_caught = found["verdict"] == "broken"
        if is_caught or fault.size is None or at_size or size > LARGEST_SIZE:
            return row | {"caught_at": size if is_caught and fault.size else None}
        size *= 2


def judges(subject: Subject, seed: int, root: Path) -> Callable[[Fault, str, int], Judge]:
    """Makes the judge that a fault needs, once: of the model, of its two outputs, or of one that overflows."""
    made: dict[tuple[str, str], Judge] = {}

    def judge_of(fault: Fault, precision: str, fault_seed: int) -> Judge:
        name = "plain"
        module: torch.nn.Module = subject.module()
        if fault.name == "outputs swapped":
            name, module = "two outputs", TwoOutputs(module)
        elif fault.precision is not None:  # the model itself is what overflows: the reference is finite, fp16 is not
            name = f"{fault.name} {fault_seed}"
            planted = plant(fault, subject, fault_seed, 0.0)
            assert planted is not None
            module = planted[0]
        if (name, precision) not in made:
            made[name, precision] = Judge(subject, module, precision, seed, root)
        return made[name, precision]

    return judge_of


def main() -> int:
    """Plant, judge, print a line each and a table; returns 0 when both goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bert-tiny,gpt-tiny,gpt2-tiny")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--faults", default="", help="part of a fault's name; empty for all")
    parser.add_argument("--without", help="part of the name of a fault to leave out")
    parser.add_argument("--seeds", type=int, default=3, help="places for each fault, model and format")
    parser.add_argument("--precision", default="fp32", help="of exports and of eager beside them")
    parser.add_argument("--sound", type=int, default=6, help="judgements of each sound export, on other inputs")
    parser.add_argument("--weight-seeds", type=int, default=1, help="sound models of each architecture")
    parser.add_argument("--lengths", default="1,16,37")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--at-size", action="store_true", help="plant no missed fault larger until it is caught")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in run(args, Path(folder)):
            rows.append(row)
            print(_line(row), flush=True)
            if args.output:
                with args.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print("\n".join(summary(rows)))
    missed = any(row["kind"] == "fault" and row["verdict"] != "broken" for row in rows)
    alarmed = any(row["kind"] == "sound" and row["verdict"] == "broken" for row in rows)
    return 1 if missed or alarmed else 0


def run(args: argparse.Namespace, root: Path) -> Iterator[dict[str, Any]]:
    """A row for each fault planted and each sound export judged."""
    lengths = [int(length) for length in args.lengths.split(",")]
    shapes = tuple(Shape(batch, length) for batch in DEFAULT_BATCHES for length in lengths)
    store = ArtifactStore(args.artifacts)
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # torch.jit and torch.export warn about themselves at every export
    for name in args.models.split(","):
        for weight_seed in range(args.weight_seeds):
            source = sources.resolve(name, seed=weight_seed)
            weights = store.make(checkpoint.recipe(source), partial(checkpoint.export, source))
            subject = Subject(source, weights.path, shapes, args.threads)
            yield from _sound(subject, args, weight_seed, root)
            if weight_seed == 0:
                judge_of = judges(subject, 0, root)
                for fault in FAULTS:
                    if args.faults not in fault.name or (args.without and args.without in fault.name):
                        continue
                    for format_name in args.formats.split(","):
                        for seed in range(args.seeds):
                            started = time.monotonic()
                            precision = fault.precision or args.precision
                            judge = judge_of(fault, precision, seed)
                            row = try_fault(fault, subject, format_name, precision, seed, judge, root, args.at_size)
                            if row is not None:
                                yield row | {"seconds": round(time.monotonic() - started, 1)}


def _sound(subject: Subject, args: argparse.Namespace, weight_seed: int, root: Path) -> Iterator[dict[str, Any]]:
    """A/A: the sound model's own exports on several sets of inputs."""
    if not args.sound:
        return
    by_seed = {seed: Judge(subject, subject.module(), args.precision, 1000 + seed, root) for seed in range(args.sound)}
    for format_name in args.formats.split(","):
        with tempfile.TemporaryDirectory(dir=root) as place:
            backend = loaded(format_name, subject.module(), args.precision, subject.threads, Path(place))
            for seed, judge in by_seed.items():
                row = {"kind": "sound", "model": subject.source.name, "weight_seed": weight_seed, "format": format_name}
                yield row | {"seed": seed, **judge.verdict(backend)}
            backend.close()


def _line(row: Mapping[str, Any]) -> str:
    share = row.get("share_of_limit")
    figures = "" if share is None else f", {share:.3g} of the limit"
    what = f"{row['fault']} ({row['what']})" if row["kind"] == "fault" else "sound"
    caught = f"; caught at {row['caught_at']:g}" if row.get("caught_at") and row["verdict"] != "broken" else ""
    cases = f"{row['broken_cases']} of {row['all_cases']} cases"
    model = Path(row["model"]).name
    return f"{model} {row['format']}: {what}: {row['verdict']}{figures}, broken in {cases}{caught}"


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: how many of each fault were caught by format, and how near sound exports come to the limits."""
    formats = list(dict.fromkeys(row["format"] for row in rows))
    lines = ["", f"| fault | {' | '.join(formats)} |", "|---|" + "---|" * len(formats)]
    for fault in dict.fromkeys(row["fault"] for row in rows if row["kind"] == "fault"):
        cells = []
        for format_name in formats:
            of_kind = [row for row in rows if row.get("fault") == fault and row["format"] == format_name]
            caught = sum(row["verdict"] == "broken" for row in of_kind)
            cells.append(f"{caught} of {len(of_kind)}")
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    faults = [row for row in rows if row["kind"] == "fault"]
    sound = [row for row in rows if row["kind"] == "sound"]
    caught = sum(row["verdict"] == "broken" for row in faults)
    lines += ["", f"faults: {caught} of {len(faults)} called broken"]
    for row in faults:
        if row["verdict"] != "broken":
            lines.append(f"missed: {_line(row)}")
    lines += of_the_clause(faults)
    verdicts = Counter(row["verdict"] for row in sound)
    shares = sorted(row["share_of_limit"] for row in sound if row.get("share_of_limit") is not None)
    lines.append(f"sound exports: {len(sound)} judgements, {dict(verdicts)} (exact: bit for bit eager's)")
    if shares:
        lines.append(f"nearest to a limit: {shares[-1]:.0%} of it; median {shares[len(shares) // 2]:.0%}")
    return lines


def of_the_clause(faults: list[dict[str, Any]]) -> list[str]:
    """Whether "coarser rounding and nothing else" lets a fault pass, and how near it comes to that."""
    passed = [row for row in faults if row["bare_verdict"] == "broken" != row["verdict"]]
    cases = sum(row["passed_cases"] for row in faults)
    lines = [f"let pass as coarser rounding alone: {len(passed)} faults, {cases} cases", *map(_line, passed)]
    later = [row for row in faults if row.get("bare_caught_at", math.inf) < (row.get("caught_at") or 0.0)]
    told = "caught from {caught_at:g}, from {bare_caught_at:g} without it: "
    lines += [told.format(**row) + _line(row) for row in later]
    near = [row for row in faults if row["coarseness"] is not None]
    if near:
        row = min(near, key=lambda row: float(row["coarseness"]))
        lines.append(f"nearest to it: {row['coarseness']:.3g} of its limit, {row['nearest']}: {_line(row)}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
