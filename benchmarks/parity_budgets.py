"""How much does a lower precision lose, by which the budgets for `lossy` are set?

    python benchmarks/parity_budgets.py [--models bert,gpt2] [--tasks base,lm] [--lengths 16,37,128]

Eager, TorchScript and ONNX at fp16 and bf16 as far as each has them, and ONNX with weights and activations quantised
to int8 by ONNX Runtime's own tool (dynamic, the weights of matrix products), on the matrix of `bench parity`, against
eager in float64. Prints the worst case of each: RMSE as a share of the reference's RMS, that of the worst token, least
cosine of a token, mean KL divergence; and over all cases of a language model the top-1 agreement, and that beside
near-ties.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import backends
from bench import check_parity, machine
from bench.parity import judging
from bench.parity.verdict import TOLERANCES, judge
from bench.run.experiment import model_of
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.spec import parse_candidates
from bench.workloads.judgements import judgements
from bench.workloads.parity import Parity, ParityOptions
from exporters import sources
from exporters.store import ArtifactStore

PRECISIONS = {"fp16": "eager,torchscript,onnx", "bf16": "eager,torchscript"}


def main() -> None:
    """Print a line for each model, task, backend and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bert,gpt2")
    parser.add_argument("--tasks", default="base,lm")
    parser.add_argument("--lengths", default="16,37,128")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{machine.cpu_name()}; worst case of each")
    columns = ("model", "output", "backend", "precision", "RMSE share", "of a token", "cosine", "mean KL", "top-1")
    print(f"| {' | '.join([*columns, 'beside near-ties', 'verdict'])} |")
    print("|---|---|---|---|--:|--:|--:|--:|--:|--:|---|")
    for model in args.models.split(","):
        for task in args.tasks.split(","):
            for precision, names in PRECISIONS.items():
                found = check_parity(
                    model, backends=names, precisions=precision, task=task, lengths=args.lengths, new_tokens=0,
                    threads=args.threads, artifacts=args.artifacts,
                )  # fmt: skip
                for one in judgements(found):
                    print(_line(model, task, one.candidate.label, precision, one.cases), flush=True)
            cases = quantised(model, task, args)
            print(_line(model, task, "onnx, dynamic", "int8", cases), flush=True)


def quantised(model: str, task: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Judged cases of the ONNX export with its matrix products quantised, held against eager in fp32."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = sources.resolve(model, task=task)
    given = {"model": model, "task": task, "backends": "onnx", "lengths": args.lengths, "new_tokens": 0}
    threads = machine.thread_budget(args.threads)
    given |= {"device": "cpu", "threads": threads, "artifacts": args.artifacts}
    workload = Parity(Parity.settle(ParityOptions.parsed(given), source))
    (candidate,) = parse_candidates("onnx", "fp32")
    run = Run(workload, model_of(source), (candidate,), {}, "")
    prepared = Preparation(run, source, ArtifactStore(args.artifacts), print)
    prepared.make(workload.points())
    assert candidate not in prepared.refused, prepared.refused
    artifact = prepared.artifacts[candidate]
    tolerance = TOLERANCES["int8"]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        quantize_dynamic(
            artifact.path / "model.onnx", place / "model.onnx", weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"], use_external_data_format=True,
        )  # fmt: skip
        shutil.copy(artifact.path / "artifact.json", place)
        backend = backends.load_class("onnx")()
        backend.load(place, device="cpu", precision="fp32", threads=threads, options={})
        for point in workload.points():
            for name, inputs in workload.cases(point, source).items():
                pair = prepared.references.pair("fp32", name)
                assert not isinstance(pair, str), pair
                request = {"eager_error": str(pair[1].path), "precision": "int8", "atol": 0.0, "rtol": 0.0}
                found = judging.check(backend, inputs.plan, pair[0].path, request)
                cases += [judge(outputs, tolerance) for outputs in found.values()]
        backend.close()
    return cases


def _line(model: str, task: str, label: str, precision: str, cases: Iterable[Mapping[str, Any]]) -> str:
    measured = [case for case in cases if case.get("rmse") is not None]
    if not measured:
        return f"| {Path(model).name} | {task} | {label} | {precision} |{' – |' * 6} unjudged |"
    cells = [
        f"{max(case['rmse'] / case['rms_reference'] for case in measured):.2%}",
        f"{max(case['rmse_of_worst_token'] / case['rms_reference'] for case in measured):.2%}",
        f"{min(case['min_cosine'] for case in measured):.5f}",
    ]
    if "kl_mean" in measured[0]:
        positions = sum(case["top1_n"] for case in measured)
        flips, near = (sum(case[name] for case in measured) for name in ("top1_flips", "top1_near_ties"))
        cells += [
            f"{max(case['kl_mean'] for case in measured):.1e}",
            f"{1 - flips / positions:.2%}",
            f"{1 - (flips - near) / positions:.2%} of {positions}",
        ]
    else:
        cells += ["–"] * 3
    verdicts = sorted({case["verdict"] for case in measured})
    return f"| {Path(model).name} | {task} | {label} | {precision} | {' | '.join(cells)} | {', '.join(verdicts)} |"


if __name__ == "__main__":
    main()
