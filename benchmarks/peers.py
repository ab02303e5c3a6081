"""How does the fastest cell of our table stand against what each peer would hand out, on the same weights?

    python benchmarks/peers.py [--models bert,gpt2] [--artifacts artifacts] [--max-seconds-per-cell 5]

One interleaved run for each model and batch, in fp32. Peers: torch eager; ONNX Runtime on the exported file, as its own
scripts run it; OpenVINO on the same file (where the extra is installed); Optimum's own export with O2 (where
`bench env create optimum` was called). Ours: the variants that were first anywhere or near it,
and that none of those tools would hand out; on a GPU those with CUDA graphs are among them. Only cells that are the
same model count on either side. Goal: ours at most 0.75 of the best peer's time at 1×8 and 1×128, never above 1.0; a
peer's own cell is in our table as well, so 1.0 is what is left where none of ours is faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import backends
from bench import machine, statistics
from bench.run.experiment import measure
from bench.run.listener import Listener
from bench.run.pairs import ratio_between
from bench.run.record import Record, Run
from bench.spec import Shape
from bench.workloads.forward import Forward, ForwardOptions

PEERS = ("eager", "onnx", "openvino", "optimum:O2")
OURS = {
    "cpu": (
        "onnx:fused", "onnx:attention23", "openvino:attention23", "openvino:static", "compile:max-autotune", "aoti",
        "aoti:max-autotune",
    ),
    "cuda": (
        "onnx:fused", "onnx:attention23", "onnx:cuda-graphs", "onnx:fused-cuda-graphs", "compile:reduce-overhead",
        "aoti",
    ),
}  # fmt: skip
#: Lengths by batch; together the four shapes of the goal.
SHAPES = {1: (8, 128, 512), 8: (128,)}
GOAL, GOAL_SHAPES, LIMIT = 0.75, (Shape(1, 8), Shape(1, 128)), 1.0


def known(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that this version has, and the others."""
    found: list[str] = []
    unknown: list[str] = []
    for name in names:
        backend, _, variant = name.partition(":")
        has_it = backend in backends.names() and (variant or "default") in backends.load_class(backend).spec.variants
        (found if has_it else unknown).append(name)
    return found, unknown


def best(records: Sequence[Record]) -> Record | None:
    """The fastest of those that are still the same model."""
    sound = [record for record in records if record.is_comparable]
    return min(sound, key=lambda record: statistics.median(record.samples), default=None)


def lines(run: Run) -> Iterator[str]:
    """One line a shape: our best, the best peer, their ratio within rounds, the share of the roofline."""
    for shape, records in run.by_point():
        ours = best([record for record in records if record.candidate.label not in PEERS])
        peer = best([record for record in records if record.candidate.label in PEERS])
        if ours is None or peer is None:
            yield f"{run.model.name:<6} {shape!s:>6}  no cell of {'ours' if ours is None else 'a peer'} was measured"
            continue
        yield line(run, shape, ours, peer)


def line(run: Run, shape: Shape, ours: Record, peer: Record) -> str:
    """The figures of one shape; the ratio is our time over the peer's, so that below 1 ours is faster."""
    ratio = ratio_between(ours, peer)  # how many times faster the peer is, which is the same
    low_high = ""
    value = statistics.median(ours.samples) / statistics.median(peer.samples)
    if ratio is not None and ratio.interval is not None:
        value = ratio.value
        low_high = f"{ratio.interval.low:.2f}–{ratio.interval.high:.2f}"
    limit = GOAL if shape in GOAL_SHAPES else LIMIT
    verdict = "reached" if value <= limit else "missed"
    share = run.roofline_share(ours)
    floor = "" if share is None else f"{share:.0%} of the roofline"
    return (
        f"{run.model.name:<6} {shape!s:>6}  {ours.candidate.label:<21} {ms(ours):>8}  {peer.candidate.label:<10} "
        f"{ms(peer):>8}  {value:.2f} {low_high:<10} goal {limit:g} {verdict:<8} {floor}"
    )


def ms(record: Record) -> str:
    """The median, with two decimals below 10 ms."""
    median = statistics.median(record.samples) / 1e6
    return f"{median:.1f}" if median >= 10 else f"{median:.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bert,gpt2")
    parser.add_argument("--backends", help="default: peers and ours")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--max-seconds-per-cell", type=float, default=5.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    device = machine.settle_device(args.device)
    names, unknown = known(args.backends.split(",") if args.backends else (*PEERS, *OURS[device]))
    if unknown:
        print(f"not in this version: {', '.join(unknown)}", flush=True)
    found: list[str] = []
    runs: list[Run] = []
    told: set[str] = set()
    for model in args.models.split(","):
        for batch, lengths in SHAPES.items():
            asked = {
                "model": model, "backends": names, "batches": batch, "lengths": lengths, "rounds": args.rounds,
                "device": device, "max_seconds_per_cell": args.max_seconds_per_cell, "artifacts": args.artifacts,
            }  # fmt: skip
            run = measure(Forward, ForwardOptions.parsed(asked), Listener(lambda text: print(text, flush=True)))
            runs.append(run)
            found += lines(run)
            told |= {f"{r.candidate.label}: {r.reason}" for r in run.records if r.status != "ok"}
    print(f"\n{machine.name_of(device)}, {runs[0].options.threads} threads, fp32; times in ms")
    print("\n".join(found))
    for text in sorted(told):
        print(f"not measured: {text}")
    for run in runs:
        print(f"records: {run.path}")


if __name__ == "__main__":
    main()
