"""Does `bench` measure what a bare loop measures?

    python benchmarks/bare_loop.py [--model bert] [--batch 1] [--length 128] [--rounds 20]

For eager and onnx: a worker of bench and a bare loop, each in a process of its own with the same
weights, ids and threads, take turns in random order; the ratio of their medians is taken within
rounds. The bare loops below import nothing of this project. Goal: within 3 %.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench import machine, statistics
from bench.process.channel import Worker
from bench.run.experiment import model_of, settle
from bench.run.preparation import Preparation
from bench.run.record import Run
from bench.spec import Shape
from bench.workloads.forward import Forward, ForwardOptions
from exporters import sources
from exporters.store import ArtifactStore

PRELUDE = """
import sys, time
import numpy as np
folder, batch, length, vocabulary, threads, calls = sys.argv[1], *map(int, sys.argv[2:])
ids = np.random.default_rng(0).integers(1, vocabulary, size=(batch, length))
mask = np.ones_like(ids)
"""
LOOP = """
for _ in range(3):
    call()
print("ready", flush=True)
for line in sys.stdin:
    times = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - started)
    print(*times, flush=True)
"""
BARE = {
    "eager": """
import torch
from transformers import AutoModel
torch.set_num_threads(threads)
model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
if hasattr(model.config, "use_cache"):
    model.config.use_cache = False
ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
def call():
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=mask)
""",
    "onnx": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
def call():
    session.run(None, {"input_ids": ids, "attention_mask": mask})
""",
}


def main() -> None:
    """Print the ratio of the two for each backend, with its spread over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bert")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=5, help="calls a turn")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    args = parser.parse_args()

    given = {
        "model": args.model, "backends": "eager,onnx", "batches": args.batch, "lengths": args.length, "device": "cpu",
        "artifacts": args.artifacts,
    }  # fmt: skip
    candidates, options = settle(Forward, ForwardOptions.parsed(given))
    assert isinstance(options, ForwardOptions)
    source = sources.resolve(args.model)
    run = Run(Forward(Forward.settle(options, source)), model_of(source), candidates, machine.fingerprint(), "")
    (shape,) = run.workload.points()
    prepared = Preparation(run, source, ArtifactStore(args.artifacts), print)
    prepared.make(())
    sampling = asdict(replace(run.workload.options.sampling, samples_per_turn=args.calls))
    request = run.workload.begin(shape, source) | {"sampling": sampling}
    threads = options.settled_threads
    print(f"{args.model} {shape}, {threads} threads, {args.rounds} rounds of {args.calls} calls; {machine.cpu_name()}")
    for candidate in candidates:
        worker = prepared.start(candidate)
        bare = None
        try:
            for message in ({"op": "hello"}, {"op": "load"}):
                worker.request(message, options.timeout)
            worker.request({"op": "begin", "key": "0", "cell": Forward.cell, "request": request}, options.timeout)
            folder = prepared.artifacts[candidate].path
            bare = start_bare(candidate.backend, folder, shape, source.vocab_size, threads, args.calls)
            ours, theirs = take_turns(worker, bare, args.rounds)
        finally:
            worker.kill()
            if bare is not None:
                bare.kill()
        ratio = statistics.ratio_within_rounds(ours, theirs)
        assert ratio is not None
        assert ratio.interval is not None
        medians = [statistics.median(statistics.pooled(turns)) / 1e6 for turns in (ours, theirs)]
        print(
            f"{candidate.backend}: bench {medians[0]:.2f} ms, bare loop {medians[1]:.2f} ms, "
            f"ratio within rounds {ratio.value:.3f} "
            f"(99 % interval {ratio.interval.low:.3f} to {ratio.interval.high:.3f}, {ratio.verdict})"
        )


def start_bare(
    backend: str, folder: Path, shape: Shape, vocabulary: int, threads: int, calls: int
) -> subprocess.Popen[str]:
    """A bare loop in a process of its own, warmed up."""
    numbers = [str(value) for value in (shape.batch, shape.length, vocabulary, threads, calls)]
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + BARE[backend] + LOOP, str(folder), *numbers],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"the bare {backend} loop did not start")
    return process


def take_turns(worker: Worker, bare: subprocess.Popen[str], rounds: int) -> tuple[list[list[int]], list[list[int]]]:
    """Nanoseconds of each call by round: bench's worker, and the bare loop."""
    assert bare.stdin is not None
    assert bare.stdout is not None
    order, ours, theirs = random.Random(0), [], []
    for _ in range(rounds):
        for who in order.sample(("bench", "bare"), 2):
            if who == "bench":
                reply = worker.request({"op": "turn", "key": "0", "request": {"seconds": 3600.0}}, 3600)
                ours.append(reply["times_ns"]["wall"])
            else:
                bare.stdin.write("go\n")
                bare.stdin.flush()
                theirs.append([int(value) for value in bare.stdout.readline().split()])
    return ours, theirs


if __name__ == "__main__":
    main()
