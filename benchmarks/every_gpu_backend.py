"""Every CUDA backend on BERT, GPT, GPT-2 and GPT-2 medium, in fp32, TF32, fp16 and bf16, as far as the time goes.

    python benchmarks/every_gpu_backend.py [--models bert,gpt2] [--minutes 10] [--artifacts artifacts]

Exports come first, as many side by side as the CPUs allow, since a GPU is often rented by the minute and most of that
time would go into them: an ONNX file of 12 layers took 25 to 50 s on an H100's host, a package of AOTInductor 50 s.
Then one `bench compare` after another with nothing else running, each model's precisions in one run and TF32, which
holds for a whole run, in another. A comparison is begun while a minute or more is left, and ended then; what was not
begun is listed. Whatever was measured lies under ARTIFACTS/runs, and what is in the store need not be exported again.
Nothing is measured while anything is exported.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import backends
import exporters
from bench import machine
from bench.errors import BenchError
from bench.process import export
from bench.process.channel import WorkerError
from bench.run.experiment import measure
from bench.run.listener import Listener
from bench.spec import Candidate, parse_candidates
from bench.workloads.forward import Forward, ForwardOptions
from exporters import checkpoint, sources
from exporters.store import ArtifactStore

MODELS = ("bert", "gpt2", "gpt", "gpt2-medium")
BACKENDS = (
    "eager", "compile:reduce-overhead", "onnx", "onnx:cuda-graphs", "onnx:fused", "onnx:fused-cuda-graphs",
    "onnx:attention23", "torchscript", "aoti", "tensorrt",
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "bf16")
#: A comparison that has less time than this left would end among its first cells.
LEAST_SECONDS = 60.0
EXPORT_SECONDS = 900.0
#: CPUs that one export keeps busy.
CPUS_OF_AN_EXPORT = 2
#: What is made from another artifact comes behind it.
MADE_FROM = {"onnx-fused": "onnx"}


@dataclass(frozen=True)
class Measurement:
    """One comparison."""

    model: str
    precisions: tuple[str, ...]
    tf32: bool

    def __str__(self) -> str:
        return f"{self.model} {'TF32' if self.tf32 else ','.join(self.precisions)}"


def measurements(models: Sequence[str], precisions: Sequence[str]) -> list[Measurement]:
    """Every comparison, in the order in which they are made."""
    found = []
    for model in models:
        found.append(Measurement(model, tuple(precisions), tf32=False))
        if "fp32" in precisions:
            found.append(Measurement(model, ("fp32",), tf32=True))
    return found


def runnable(names: Sequence[str], precisions: Sequence[str], device: str) -> tuple[list[str], dict[str, str]]:
    """Those of `names` that run on `device` in one of `precisions` at least, and why the others do not."""
    kept, refused = [], {}
    for name in names:
        reasons = [reason_against(candidate, device) for candidate in parse_candidates([name], list(precisions))]
        if None in reasons:
            kept.append(name)
        else:
            refused[name] = str(reasons[0])
    return kept, refused


def reason_against(candidate: Candidate, device: str) -> str | None:
    """Why a candidate does not run here, or None."""
    return backends.load_class(candidate.backend).supports(candidate.variant, device, candidate.precision)


def chains(candidates: Sequence[Candidate], device: str) -> list[list[tuple[str, str]]]:
    """Artifacts to export as (format, precision); those of one chain one after another, chains side by side."""
    wanted: dict[tuple[str, str], None] = {}
    for candidate in candidates:
        spec = backends.load_class(candidate.backend).spec
        format_name = spec.format_of(candidate.variant)
        if format_name not in (None, "checkpoint") and reason_against(candidate, device) is None:
            precision = spec.artifact_precision(candidate.variant, candidate.precision)
            wanted[str(format_name), precision] = None
    behind = {(name, precision) for name, precision in wanted if (MADE_FROM.get(name), precision) in wanted}
    found = [[artifact] for artifact in wanted if artifact not in behind]
    for name, precision in behind:
        next(chain for chain in found if chain[0] == (MADE_FROM[name], precision)).append((name, precision))
    return found


def export_all(
    models: Sequence[str], names: Sequence[str], precisions: Sequence[str], device: str, root: Path, at_once: int
) -> None:
    """Bring the checkpoint and every artifact that the candidates load into the store; a failure is printed."""
    store = ArtifactStore(root)
    store.prepare()
    found = chains(parse_candidates(names, list(precisions)), device)
    with ThreadPoolExecutor(at_once) as pool:
        keys = list(pool.map(lambda model: checkpoint_key(model, store), models))
        tasks = [(model, key, chain) for model, key in zip(models, keys, strict=True) for chain in found]
        list(pool.map(lambda task: export_chain(task[0], task[1], task[2], device, store), tasks))


def checkpoint_key(model: str, store: ArtifactStore) -> str:
    """Key of the model's checkpoint, which is exported where the store lacks it."""
    source = sources.resolve(model)
    recipe = checkpoint.recipe(source)
    if store.find(recipe) is None:
        exporting = export.Exporting(store.root, CPUS_OF_AN_EXPORT)
        exporting.request("checkpoint", source.export_options(), EXPORT_SECONDS)
        exporting.close()
    made = store.find(recipe)
    assert made is not None
    return made.key


def export_chain(model: str, key: str, chain: Sequence[tuple[str, str]], device: str, store: ArtifactStore) -> None:
    """Export what the store lacks of (format, precision), one after another, until one fails."""
    exporting = export.Exporting(store.root, CPUS_OF_AN_EXPORT)
    for name, precision in chain:
        if store.find(exporters.recipe(name, key, precision=precision, device=device)) is not None:
            continue
        started = time.monotonic()
        try:
            which = ["--checkpoint", key, "--precision", precision, "--device", device]
            exporting.request(name, which, EXPORT_SECONDS)
        except WorkerError as error:
            print(f"{model}: the {name} export in {precision} failed: {error.reason}", flush=True)
            break
        print(f"{model}: exported {name} {precision} in {time.monotonic() - started:.0f} s", flush=True)
    exporting.close()


def in_time(
    wanted: Sequence[Measurement], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[Measurement]:
    """Those of `wanted` that are begun with `LEAST_SECONDS` or more left of `seconds`."""
    end = clock() + seconds
    for one in wanted:
        if end - clock() < LEAST_SECONDS:
            return
        yield one


def main() -> None:
    """Export, then measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--lengths", default="128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-seconds-per-cell", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=600.0, help="for all that is measured, exports not counted in")
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 1) // CPUS_OF_AN_EXPORT))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    device, models, precisions = machine.settle_device(args.device), args.models.split(","), args.precisions.split(",")
    names, refused = runnable(args.backends.split(","), precisions, device)
    for name, reason in refused.items():
        print(f"not here: {name}: {reason}", flush=True)
    export_all(models, names, precisions, device, args.artifacts, args.at_once)
    wanted = [one for one in measurements(models, precisions) if device == "cuda" or not one.tf32]
    done = []
    for one in in_time(wanted, 60 * args.minutes):
        taking = [name for name in names if not one.tf32 or backends.load_class(name.partition(":")[0]).spec.takes_tf32]
        try:
            asked = {
                "model": one.model, "backends": taking, "precisions": one.precisions, "tf32": one.tf32,
                "batches": args.batches, "lengths": args.lengths, "rounds": args.rounds, "device": device,
                "max_seconds_per_cell": args.max_seconds_per_cell, "artifacts": args.artifacts,
            }  # fmt: skip
            run = measure(Forward, ForwardOptions.parsed(asked), Listener(lambda text: print(text, flush=True)))
        except BenchError as error:
            print(f"{one}: {error}", flush=True)
            continue
        done.append(one)
        print(f"{one}: {run.path}", flush=True)
    for one in wanted:
        if one not in done:
            print(f"not measured: {one}")


if __name__ == "__main__":
    main()
