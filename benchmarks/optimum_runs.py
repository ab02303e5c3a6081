"""optimum-benchmark on a grid of shapes: its environment, configuration, processes and reports."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import statistics
from bench.spec import Shape

VERSION = "0.6.0"
PACKAGES = ("optimum-benchmark", "optimum", "optimum-onnx", "torch", "transformers", "onnxruntime")
#: bench's backend -> optimum-benchmark's.
BACKENDS = {"eager": "pytorch", "onnx": "onnxruntime"}
LAUNCH = """
from optimum_benchmark.cli import main
if __name__ == "__main__":
    main()
"""
#: optimum-benchmark 0.6.0 reads the names of ONNX Runtime's model classes from a table that optimum 2 no longer has.
MISSING_TABLE = """
import optimum.pipelines
optimum.pipelines.ORT_SUPPORTED_TASKS = {
    "feature-extraction": {"class": (type("ORTModelForFeatureExtraction", (), {}),)}
}
"""

Cell = tuple[str, Shape]
"""bench's name of the backend, and the shape."""


@dataclass(frozen=True)
class Measured:
    """One cell as one of the tools measured it; `samples_ns` in the order taken."""

    samples_ns: list[int]
    load_seconds: float

    @property
    def median_ms(self) -> float:
        """Middle of the samples."""
        return statistics.median(self.samples_ns) / 1e6

    @property
    def seconds(self) -> float:
        """Time of all samples together."""
        return sum(self.samples_ns) / 1e9


def installed_versions(python: Path) -> dict[str, str]:
    """Versions of `PACKAGES` in the other environment; ends with a remedy unless optimum-benchmark is `VERSION`."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    try:
        done = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"--python {str(python)!r} does not start ({error.strerror}); name an interpreter") from None
    versions: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    if versions.get("optimum-benchmark") != VERSION:
        remedy = f"run: {python} -m pip install -r benchmarks/optimum_benchmark.txt"
        raise SystemExit(f"optimum-benchmark {VERSION} is not there; {remedy}\n{done.stderr}{done.stdout}")
    return versions


def run_optimum(
    args: argparse.Namespace,
    shapes: Sequence[Shape],
    threads: int,
    backends: Sequence[str],
    checkpoint: Path,
    folder: Path,
) -> tuple[float, float, dict[Cell, Measured]]:
    """Wall seconds of its exports and of its grid, and the cells that it left reports of."""
    environment = offline() | {"OMP_NUM_THREADS": str(threads)}
    exports = 0.0
    models = {"eager": checkpoint, "onnx": folder / "optimum-export"}
    if "onnx" in backends:
        say("optimum's ONNX export")
        command = [str(args.python), "-m", "optimum.exporters.onnx", "--model", str(checkpoint)]
        options = ["--task", "feature-extraction", "--framework", "pt", str(models["onnx"])]
        exports = timed([*command, *options], folder / "optimum-export.log", environment, allowed=(0,))
    grid_wall, theirs = 0.0, {}
    for backend in backends:
        say(f"optimum-benchmark, {BACKENDS[backend]}")
        sweep = folder / f"optimum-{backend}"
        sweep.mkdir()
        model_config = json.loads((checkpoint / "config.json").read_text())
        config = config_of(backend, models[backend], model_config, threads, args.launcher, args.iterations)
        # Each cell in a folder of its own, as optimum-benchmark's examples have it. JSON is YAML, which hydra reads.
        subfolder = "${scenario.input_shapes.batch_size}x${scenario.input_shapes.sequence_length}"
        config["hydra"] = {"job": {"chdir": True}, "sweep": {"dir": str(sweep), "subdir": subfolder}}
        (sweep / "config.yaml").write_text(json.dumps(config, indent=1))
        launch = sweep / "launch.py"
        launch.write_text((MISSING_TABLE if backend == "onnx" else "") + LAUNCH)
        command = [str(args.python), str(launch), "--config-dir", str(sweep), "--config-name", "config", "--multirun"]
        # Not 0 where a cell fails, which ends its sweep; the cells before it have their reports.
        log = folder / f"optimum-{backend}.log"
        grid_wall += timed([*command, *overrides_of(shapes)], log, environment, allowed=(0, 1))
        for shape in shapes:
            report = sweep / f"{shape.batch}x{shape.length}" / "benchmark_report.json"
            if report.is_file():
                theirs[backend, shape] = parse_report(report.read_text())
            else:
                say(f"{BACKENDS[backend]} left no report of {shape}:\n{last_lines(log)}")
    return exports, grid_wall, theirs


def config_of(
    backend: str,
    model: Path,
    model_config: Mapping[str, Any],
    threads: int,
    launcher: str = "process",
    iterations: int | None = None,
) -> dict[str, Any]:
    """optimum-benchmark's configuration for bench's `backend`; the shapes come as overrides, see `overrides_of`."""
    name = BACKENDS[backend]
    options: dict[str, Any] = {
        "model": str(model),
        "task": "feature-extraction",
        "library": "transformers",
        "device": "cpu",
    }
    if name == "pytorch":
        # This is the one that it hands to torch.set_num_threads; the other goes to set_num_interop_threads.
        options |= {"torch_dtype": "float32", "inter_op_num_threads": threads}
        if model_config.get("use_cache"):
            options["model_kwargs"] = {"use_cache": False}  # as bench loads it
    else:
        options |= {"export": False, "session_options": {"intra_op_num_threads": threads}}
    scenario = {} if iterations is None else {"iterations": iterations, "duration": 0}
    return {
        "defaults": ["benchmark", {"scenario": "inference"}, {"launcher": launcher}, {"backend": name}, "_self_"],
        "name": name,
        "backend": options,
        "scenario": scenario | {"input_shapes": {"batch_size": 1, "sequence_length": 1}},
    }


def overrides_of(shapes: Sequence[Shape]) -> list[str]:
    """The grid as hydra's sweep over batches and lengths."""
    batches = dict.fromkeys(str(shape.batch) for shape in shapes)
    lengths = dict.fromkeys(str(shape.length) for shape in shapes)
    return [
        f"scenario.input_shapes.batch_size={','.join(batches)}",
        f"scenario.input_shapes.sequence_length={','.join(lengths)}",
    ]


def parse_report(text: str) -> Measured:
    """A cell from its benchmark_report.json; raises ValueError where it holds no latencies in seconds."""
    try:
        report = json.loads(text)
        latencies = {name: report[name]["latency"] for name in ("forward", "load_model")}
        units = {latency["unit"] for latency in latencies.values()}
        values = [round(seconds * 1e9) for seconds in latencies["forward"]["values"]]
        load_seconds = float(latencies["load_model"]["total"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the report has no latencies of forward and load_model ({error!r})") from None
    if units != {"s"} or not values:
        raise ValueError(f"the report has {len(values)} latencies in {', '.join(sorted(units))}, not some in s")
    return Measured(values, load_seconds)


def timed(command: Sequence[str], log: Path, environment: Mapping[str, str], allowed: Sequence[int]) -> float:
    """Wall seconds of a process whose output goes to `log`; ends with its last words unless its code is `allowed`."""
    with log.open("w") as output:
        started = time.monotonic()
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), check=False)
        seconds = time.monotonic() - started
    if done.returncode not in allowed:
        raise SystemExit(f"{shlex.join(command)}\nexited {done.returncode}:\n{last_lines(log)}")
    return seconds


def offline() -> dict[str, str]:
    """This environment, and no look-ups on the Hub: all models are folders."""
    return os.environ | {"HF_HUB_OFFLINE": "1"}


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for an error."""
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-count:])


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)
