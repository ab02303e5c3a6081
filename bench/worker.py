"""`python -m bench.worker`: one backend in one process, answering requests one at a time.

To try one by hand, start it with `--parent 0` and type requests, a JSON object a line, as listed in `Session`.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import channel, inputs, timing
from bench.spec import TimingPlan

if TYPE_CHECKING:
    from backends.base import Backend


class Session:
    """The state between requests: a backend, the cell at hand, and the outputs of its last timed call.

    Requests: hello, load, begin, turn, judge, end, evaluate.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.backend: Backend
        self.outputs: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request: {"ok": …} or {"error": {"status", "reason", "details"}}."""
        from backends.base import BackendError, OutOfMemoryError, UnsupportedError, runtime_errors

        arguments = {key: value for key, value in request.items() if key != "op"}
        try:
            with runtime_errors():
                return {"ok": getattr(self, f"do_{request['op']}")(**arguments)}
        except OutOfMemoryError as error:
            return {"error": {"status": "oom", "reason": str(error), "details": dict(error.figures)}}
        except UnsupportedError as error:
            return {"error": {"status": "unsupported", "reason": str(error)}}
        except BackendError as error:
            return {"error": {"status": "failed", "reason": str(error)}}

    def do_hello(self) -> dict[str, Any]:
        """Import the runtime, so that loading is timed without it."""
        import backends
        from exporters import checkpoint, models

        backend_class = backends.load_class(self.args.backend)
        for module in backend_class.requires:
            import_module(module)
        if backend_class.format == "checkpoint":
            models.import_library()
        self.backend = backend_class(open_checkpoint=checkpoint.open_checkpoint)
        return {"versions": backend_class.versions()}

    def do_load(self) -> dict[str, Any]:
        """Load the artifact; returns the seconds that it took."""
        started = time.perf_counter()
        self.backend.load(
            Path(self.args.artifact) if self.args.artifact else None,
            device=self.args.device,
            precision=self.args.precision,
            threads=self.args.threads,
            options=self.backend.variants[self.args.variant],
        )
        return {"seconds": time.perf_counter() - started}

    def do_begin(self, inputs_plan: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
        """Prepare a cell's inputs, make the first call and warm up."""
        self.inputs_plan = inputs.InputPlan(**inputs_plan)
        self.plan = TimingPlan(**plan)
        self.prepared = self.backend.prepare(inputs.make_batch(self.inputs_plan, "timed"))
        marks = self.backend.mark() is not None
        self.step = timing.Step(
            self._call,
            self.backend.synchronize,
            self.backend.mark if marks else None,
            self.backend.elapsed_ns if marks else None,
        )
        gc.collect()
        gc.disable()
        first_ns, warmup_ns = timing.warm_up(self.step, self.plan)
        self.call_ns = min(warmup_ns, default=first_ns)
        facts = self.backend.facts()
        self.graphs = facts.get("graphs")
        return {"first_call_ns": first_ns, "warmup_ns": warmup_ns, "facts": facts}

    def _call(self) -> None:
        self.outputs = self.backend.run(self.prepared)

    def do_turn(self, seconds: float) -> dict[str, Any]:
        """Take one turn's samples."""
        samples = timing.take_turn(self.step, seconds, self.call_ns, self.plan.samples_per_turn)
        return {"wall_ns": samples.wall_ns, "device_ns": samples.device_ns}

    def do_judge(self, reference: str | None, yardstick: str | None, atol: float, rtol: float) -> dict[str, Any]:
        """Compare the last timed call's outputs, and those under padded masks, with the stored reference."""
        facts = self.backend.facts()
        if self.graphs is not None:
            facts["recompiles_while_timing"] = facts["graphs"] - self.graphs
        cases = {}
        if reference is not None and yardstick is not None:
            outputs = self.backend.fetch(self.outputs)
            for case in self.inputs_plan.cases:
                if case != "timed":
                    outputs = self._run_once(case)
                cases[case] = self._compare(case, outputs, Path(reference), Path(yardstick), atol, rtol)
        return {"cases": cases, "facts": facts}

    def _run_once(self, case: str) -> dict[str, Any]:
        outputs = self.backend.run(self.backend.prepare(inputs.make_batch(self.inputs_plan, case)))
        self.backend.synchronize()
        return self.backend.fetch(outputs)

    def _compare(
        self, case: str, outputs: dict[str, Any], reference: Path, yardstick: Path, atol: float, rtol: float
    ) -> dict[str, Any]:
        import numpy as np

        from bench.parity import metrics

        rows = inputs.judged_rows(self.inputs_plan)
        mask = inputs.make_batch(self.inputs_plan, case)["attention_mask"][rows]
        taken = {
            name: array[rows] if len(array) == self.inputs_plan.batch else array for name, array in outputs.items()
        }
        with np.load(reference / f"{case}.npz") as expected, np.load(yardstick / f"{case}.npz") as eager:
            return metrics.compare(taken, dict(expected), dict(eager), mask, self.args.precision, atol, rtol)

    def do_end(self) -> dict[str, Any]:
        """Let go of the cell's inputs and outputs."""
        self.step = self.prepared = self.outputs = None  # type: ignore[assignment]
        gc.enable()
        gc.collect()
        self.backend.trim()
        return {}

    def do_evaluate(self, inputs_plan: dict[str, Any], folder: str) -> dict[str, Any]:
        """Write this backend's outputs for the judged rows of a cell into `folder`, a .npz a case."""
        import numpy as np

        plan = inputs.InputPlan(**inputs_plan)
        rows = inputs.judged_rows(plan)
        for case in plan.cases:
            batch = {name: array[rows] for name, array in inputs.make_batch(plan, case).items()}
            outputs = self.backend.run(self.backend.prepare(batch))
            self.backend.synchronize()
            arrays: dict[str, Any] = self.backend.fetch(outputs)
            np.savez(Path(folder) / f"{case}.npz", **arrays)
        return {"rows": rows}


def parser() -> argparse.ArgumentParser:
    """The worker's command line."""
    result = argparse.ArgumentParser(prog="python -m bench.worker", description="One backend in one process.")
    result.add_argument("--backend", required=True)
    result.add_argument("--variant", default="default")
    result.add_argument("--precision", default="fp32")
    result.add_argument("--device", default="cpu")
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--artifact", default="", help="artifact folder to load")
    result.add_argument("--parent", type=int, default=0, help="process to die with; 0 for none")
    return result


def start(
    backend: str, variant: str, precision: str, device: str, artifact: Path | None, threads: int, root: Path
) -> channel.Worker:
    """Start a worker's process; compiled code is cached under `root`, the folder of the store."""
    command = [*channel.python_module("bench.worker"), "--backend", backend, "--variant", variant]
    command += ["--precision", precision, "--device", device, "--threads", str(threads)]
    command += [f"--artifact={artifact}"] if artifact else []
    cache = {"TORCHINDUCTOR_CACHE_DIR": str((root / "cache" / "inductor").resolve())}
    return channel.Worker([*command, "--parent", str(os.getpid())], threads, cache)


def main() -> None:
    """Answer requests on standard input until it ends."""
    args = parser().parse_args()
    if args.parent:
        channel.die_with_parent(args.parent)
    channel.volunteer_for_oom_kill()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    channel.serve(Session(args).answer)


if __name__ == "__main__":
    main()
