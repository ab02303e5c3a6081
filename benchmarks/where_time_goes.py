"""Where does a call spend its time? Each runtime's own profile of its kernels, summed by kind.

    python benchmarks/where_time_goes.py --shapes 1x8,1x128 aoti=FOLDER openvino=FOLDER onnx=FOLDER linears=FOLDER
    python benchmarks/where_time_goes.py --device cuda --precision fp16 eager=FOLDER onnx:cuda-graphs=FOLDER

FOLDER is an artifact of the store (`bench artifacts list`), fp32 for the CPU: of a format aoti for `aoti`, of one onnx
for the next two, a checkpoint for `linears`. That is no runtime, but the model's linear layers one after another in
oneDNN, with packed weights and nothing in between: what a call cannot do without there. A package of AOTInductor is
compiled again for this, from the same checkpoint with the same settings, with Inductor's records of its kernels. A
profile slows small kernels, so "a call" is timed before it is switched on; what is left of it beside the kernels is
handing over, or where negative, what the profile costs.

On a GPU a runtime is any `backend[:variant]` with the artifact that it loads, and one profile serves all: CUPTI's, by
torch, which records every kernel that the process starts, whoever starts it. What is left beside the kernels there is
the GPU waiting for the host.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

CALLS = 20
#: Kinds that take less than this share of a call are summed up.
SMALL = 0.01

#: Kinds of a GPU's kernels by their names, the first that fits.
GPU_KINDS = {
    "attention": r"flash|fmha|attention|softmax",
    "products": r"gemm|gemv|cutlass|xmma|nvjet|splitk|cublas|^triton_tem",
    "layer norm": r"layer_?norm|welford",
    "copies": r"memcpy|memset|copy",
    "Triton's fusions": r"^triton",
}

Kernels = tuple["Counter[str]", "Counter[str]"]
"""Nanoseconds in all calls and number in all calls, by kind of kernel."""
Start = Callable[[dict[str, Any]], tuple[float, Kernels]]
"""Profiles calls on inputs: nanoseconds of a call without the profile, and its kernels."""


def main() -> None:
    """Profile each runtime in a process of its own, as their thread pools would disturb each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtimes", nargs="+", metavar="RUNTIME=FOLDER")
    parser.add_argument("--shapes", default="1x8,1x128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", default="fp32", help="of the artifacts, on a GPU")
    args = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.shapes.split(",")]
    if len(args.runtimes) > 1:
        options = ["--shapes", args.shapes, "--threads", str(args.threads)]
        options += ["--device", args.device, "--precision", args.precision]
        for runtime in args.runtimes:
            subprocess.run([sys.executable, __file__, *options, runtime], check=True)
        return
    name, _, folder = args.runtimes[0].partition("=")
    known = RUNTIMES if args.device == "cpu" else variants()
    if name not in known or not (Path(folder) / "artifact.json").is_file():
        parser.error(f"{args.runtimes[0]!r} is not RUNTIME=FOLDER with an artifact; runtimes: {', '.join(known)}")
    with tempfile.TemporaryDirectory() as scratch:
        if args.device == "cuda":
            start = on_a_gpu(name, Path(folder), args.precision, args.threads)
        else:
            start = RUNTIMES[name](Path(folder), args.threads, Path(scratch))
        for batch, length in shapes:
            call_ns, (times, counts) = start(inputs_of(Path(folder), batch, length))
            print(f"\n{name} at {batch}×{length}: {call_ns / 1e6:.2f} ms a call")
            print("\n".join(table(call_ns, times, counts)), flush=True)


def table(call_ns: float, times: Counter[str], counts: Counter[str]) -> Iterator[str]:
    """The kinds of kernel, dearest first; `times` and `counts` are of `CALLS` calls."""
    small = {kind for kind, spent in times.items() if spent / CALLS < SMALL * call_ns}
    rows = [(spent, counts[kind], kind) for kind, spent in times.most_common() if kind not in small]
    rows.append((sum(times[kind] for kind in small), sum(counts[kind] for kind in small), "others"))
    rows.append((round(call_ns * CALLS) - sum(times.values()), 0, "beside the kernels"))
    for spent, count, kind in rows:
        number = f"{count / CALLS:4.0f} ×" if count else ""
        yield f"{spent / CALLS / 1e6:8.2f} ms {spent / CALLS / call_ns:5.0%} {number:>6}  {kind}"


def inputs_of(folder: Path, batch: int, length: int) -> dict[str, Any]:
    """Token ids that every vocabulary has, and masks of ones, each [batch, length] in int64."""
    import numpy

    ids = numpy.random.default_rng(0).integers(0, 1000, (batch, length))
    names = json.loads((folder / "artifact.json").read_text())["metadata"].get("inputs", ["input_ids"])
    return {name: ids if name == "input_ids" else numpy.ones((batch, length), "int64") for name in names}


def median_ns(call: Callable[[], Any]) -> float:
    """Of `CALLS` calls after as many of warm-up."""
    found = []
    for turn in range(2 * CALLS):
        started = time.perf_counter_ns()
        call()
        if turn >= CALLS:
            found.append(time.perf_counter_ns() - started)
    return statistics.median(found)


def with_aoti(folder: Path, threads: int, scratch: Path) -> Start:
    """AOTInductor under torch's profiler."""
    import torch
    import torch._inductor

    from exporters import aoti

    torch.set_num_threads(threads)
    recipe = json.loads((folder / "artifact.json").read_text())["recipe"]
    checkpoint = folder.parent / f"checkpoint-{recipe['checkpoint']}"
    loaded: list[Any] = []
    for more in ({}, {"cpp.enable_kernel_profile": True}):
        here = scratch / f"profile-{len(loaded)}"
        here.mkdir()
        aoti.export(checkpoint, here, recipe | {"settings": recipe["settings"] | more})
        loaded.append(torch._inductor.aoti_load_package(str(here / "model.pt2")))
    plain, recorded = loaded

    def start(inputs: dict[str, Any]) -> tuple[float, Kernels]:
        tensors = [torch.from_numpy(array) for array in inputs.values()]
        times, counts = Counter[str](), Counter[str]()
        with torch.inference_mode():
            call_ns = median_ns(lambda: plain(*tensors))
            recorded(*tensors)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                for _ in range(CALLS):
                    recorded(*tensors)
        for event in profile.key_averages():
            kind = re.sub(r"^graph_\d+_|_\d+$", "", event.key)
            times[kind] += round(1000 * event.self_cpu_time_total)
            counts[kind] += event.count
        return call_ns, (times, counts)

    return start


def with_openvino(folder: Path, threads: int, scratch: Path) -> Start:
    """OpenVINO with its performance counters, settings as the backend has them."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(folder / "model.onnx")
    plain, counted = (
        core.compile_model(model, "CPU", settings | {"PERF_COUNT": count}).create_infer_request()
        for count in (False, True)
    )

    def start(inputs: dict[str, Any]) -> tuple[float, Kernels]:
        times, counts = Counter[str](), Counter[str]()
        call_ns = median_ns(lambda: plain.infer(inputs, share_inputs=True, share_outputs=True))
        counted.infer(inputs)
        for _ in range(CALLS):
            counted.infer(inputs)
            for node in counted.profiling_info:
                if node.status == node.Status.EXECUTED:
                    kind = f"{node.node_type} {node.exec_type}"
                    times[kind] += round(node.real_time.total_seconds() * 1e9)
                    counts[kind] += 1
        return call_ns, (times, counts)

    return start


def with_onnx(folder: Path, threads: int, scratch: Path) -> Start:
    """ONNX Runtime on the CPU, with its profile."""
    import onnxruntime

    def session(profile: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = profile
        options.profile_file_prefix = str(scratch / "onnx")
        return onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )  # fmt: skip

    plain = session(profile=False)

    def start(inputs: dict[str, Any]) -> tuple[float, Kernels]:
        times, counts = Counter[str](), Counter[str]()
        call_ns = median_ns(lambda: plain.run(None, inputs))
        profiled = session(profile=True)
        for _ in range(CALLS + 1):
            profiled.run(None, inputs)
        events = json.loads(Path(profiled.end_profiling()).read_text())
        first, second = sorted(event["ts"] for event in events if event["name"] == "model_run")[:2]
        assert first < second
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= second:
                times[event["args"]["op_name"]] += 1000 * event["dur"]
                counts[event["args"]["op_name"]] += 1
        return call_ns, (times, counts)

    return start


def with_linears(folder: Path, threads: int, scratch: Path) -> Start:
    """The linear layers of a checkpoint (Conv1D is GPT's name for them) that are called at each token."""
    import torch

    from exporters.checkpoint import open_checkpoint

    torch.set_num_threads(threads)
    module = open_checkpoint(folder, "cpu", "fp32")
    layers = [
        (each.weight if isinstance(each, torch.nn.Linear) else each.weight.T.contiguous(), each.bias)
        for name, each in module.named_modules()
        if type(each).__name__ in ("Linear", "Conv1D") and "pooler" not in name
    ]

    def start(inputs: dict[str, Any]) -> tuple[float, Kernels]:
        tokens = inputs["input_ids"].size
        with torch.inference_mode():
            packed = [
                (torch.randn(tokens, weight.shape[1]), torch.ops.mkldnn._reorder_linear_weight(weight, tokens), bias)
                for weight, bias in layers
            ]

            def call() -> None:
                for states, weight, bias in packed:
                    torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")

            call_ns = median_ns(call)
        kind = "linear layers"
        return call_ns, (Counter({kind: round(call_ns * CALLS)}), Counter({kind: CALLS * len(packed)}))

    return start


def variants() -> list[str]:
    """Every `backend[:variant]` that may run on a GPU."""
    import backends

    classes = {name: backends.load_class(name) for name in backends.names()}
    return [
        name if variant == "default" else f"{name}:{variant}"
        for name, found in classes.items() if "cuda" in found.spec.precisions for variant in found.spec.variants
    ]  # fmt: skip


def on_a_gpu(label: str, folder: Path, precision: str, threads: int) -> Start:
    """A backend on CUDA, as `bench compare` loads and calls it, under CUPTI's profile."""
    import torch

    import backends
    from exporters import checkpoint

    name, _, variant = label.partition(":")
    backend_class = backends.load_class(name)
    backend = backend_class(open_checkpoint=checkpoint.open_checkpoint)
    options = backend_class.spec.variants[variant or "default"]
    backend.load(folder, device="cuda", precision=precision, threads=threads, options=options)

    def start(inputs: dict[str, Any]) -> tuple[float, Kernels]:
        prepared = backend.prepare(inputs)

        def call() -> None:
            backend.run(prepared)
            backend.synchronize()

        call_ns = median_ns(call)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(CALLS):
                call()
        return call_ns, by_kind(
            (event.name, round(1000 * event.time_range.elapsed_us()))
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
        )

    return start


def by_kind(kernels: Iterable[tuple[str, int]]) -> Kernels:
    """Nanoseconds and number of a GPU's kernels, given as name and nanoseconds, by kind."""
    times, counts = Counter[str](), Counter[str]()
    for name, spent in kernels:
        found = (kind for kind, pattern in GPU_KINDS.items() if re.search(pattern, name, re.IGNORECASE))
        kind = next(found, "elementwise and others")
        times[kind] += spent
        counts[kind] += 1
    return times, counts


RUNTIMES = {"aoti": with_aoti, "openvino": with_openvino, "onnx": with_onnx, "linears": with_linears}

if __name__ == "__main__":
    main()
