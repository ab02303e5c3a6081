"""The machine's limits, measured once: operations a second at each precision, bytes a second from memory and caches.

`python -m bench.peaks` measures in a process of its own and answers {"op": "measure"} like a worker; `known` and
`measure` are the parent's side. Figures are kept in ROOT/machine/peaks-KEY.json, where KEY hashes all that decides
them. A figure is the best of many readings, and measuring again keeps the larger: a limit can be missed by a busy
machine, but not exceeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.base import distribution_version, one_line, parse_out_of_memory
from bench import channel, machine, readings
from bench.errors import BenchError
from bench.readings import Effort
from exporters.store import recipe_key

Say = Callable[[str], None]

#: Raise when the same machine would give other figures; part of the key.
VERSION = 1
#: Arithmetic that a cell of each precision may be computed in: a runtime without fp16 arithmetic widens to fp32.
COMPUTED_IN = {
    "fp32": ("fp32",), "tf32": ("tf32", "fp32"), "fp16": ("fp16", "fp32"), "bf16": ("bf16", "fp32"),
    "int8": ("int8", "fp32"),
}  # fmt: skip


@dataclass(frozen=True)
class Peaks:
    """The limits of one device with one number of threads, as far as they are measured."""

    device: str
    threads: int
    flops_per_second: Mapping[str, float] = field(default_factory=dict)
    """By precision, and "tf32" for fp32 whose products may round to it; for int8, integer operations."""
    bandwidths: tuple[tuple[int, float], ...] = ()
    """Bytes of a buffer and bytes a second that it is read at, smallest buffer first."""
    measured: str = ""
    """UTC, ISO 8601."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Precisions without a figure, and why."""
    disturbed: Mapping[str, float] = field(default_factory=dict)
    """Figures ("memory" for the bandwidths) that were never measured without other work, and its least share of CPUs.

    They may be far too low, and are measured again in the next run.
    """

    @property
    def figures(self) -> frozenset[str]:
        """What is measured: precisions, and "memory" for the bandwidths."""
        return frozenset((*self.flops_per_second, *(["memory"] if self.bandwidths else [])))

    def flops_bound(self, precision: str) -> float | None:
        """Operations a second that no cell of `precision` exceeds: the largest of those it may be computed in.

        None where one of them has no figure.
        """
        figures = [self.flops_per_second.get(one) for one in COMPUTED_IN.get(precision, (precision,))]
        return None if None in figures else max(figure for figure in figures if figure is not None)

    def is_disturbed(self, precision: str) -> bool:
        """True where a figure that bounds a cell of `precision` may be far too low."""
        return not self.disturbed.keys().isdisjoint((*COMPUTED_IN.get(precision, (precision,)), "memory"))

    def bandwidth(self, weight_bytes: float) -> float | None:
        """Bytes a second at which no runtime exceeds reading `weight_bytes` bytes of weights; None if unmeasured.

        That of the largest buffer that is not larger, or the smallest buffer; or of a larger one that was read
        faster, since a short reading is mostly its call.
        """
        if not self.bandwidths:
            return None
        sizes = [size for size, _ in self.bandwidths]
        start = max((size for size in sizes if size <= weight_bytes), default=sizes[0])
        return max(rate for size, rate in self.bandwidths if size >= start)

    def merged(self, other: Peaks) -> Peaks:
        """Both, the larger figure where they have the same one; time and reasons are those of `other`."""
        rates = dict(self.flops_per_second)
        for precision, rate in other.flops_per_second.items():
            rates[precision] = max(rate, rates.get(precision, 0.0))
        bandwidths = dict(self.bandwidths)
        for size, rate in other.bandwidths:
            bandwidths[size] = max(rate, bandwidths.get(size, 0.0))
        reasons = {**self.unmeasured, **other.unmeasured}
        quiet = (self.figures - set(self.disturbed)) | (other.figures - set(other.disturbed))
        disturbed = {
            figure: min(one.disturbed[figure] for one in (self, other) if figure in one.disturbed)
            for figure in (self.figures | other.figures) - quiet
        }
        return Peaks(
            device=self.device,
            threads=self.threads,
            flops_per_second=rates,
            bandwidths=tuple(sorted(bandwidths.items())),
            measured=other.measured,
            unmeasured={precision: why for precision, why in reasons.items() if precision not in rates},
            disturbed=disturbed,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "device": self.device,
            "threads": self.threads,
            "flops_per_second": dict(self.flops_per_second),
            "bandwidths": [list(pair) for pair in self.bandwidths],
            "measured": self.measured,
            "unmeasured": dict(self.unmeasured),
            "disturbed": dict(self.disturbed),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Peaks:
        """What `to_json` wrote; raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        peaks = cls(
            device=str(data["device"]),
            threads=int(data["threads"]),
            flops_per_second={str(precision): float(rate) for precision, rate in data["flops_per_second"].items()},
            bandwidths=tuple(sorted((int(size), float(rate)) for size, rate in data["bandwidths"])),
            measured=str(data["measured"]),
            unmeasured={str(precision): str(why) for precision, why in data["unmeasured"].items()},
            disturbed={str(figure): float(others) for figure, others in data["disturbed"].items()},
        )
        figures = [*peaks.flops_per_second.values(), *(number for pair in peaks.bandwidths for number in pair)]
        if not all(number > 0 and math.isfinite(number) for number in figures):
            raise ValueError("a figure is not a positive number")
        return peaks


# The parent's side.


def known(root: Path, device: str, threads: int) -> Peaks | None:
    """What is kept of this machine under `root`; None when nothing is, or when the file is damaged."""
    return _read(_path(root, device, threads))[0]


def measure(
    root: Path,
    device: str,
    precisions: Iterable[str],
    threads: int,
    timeout_seconds: float,
    say: Say,
    *,
    again: bool = False,
    effort: Effort | None = None,
) -> Peaks:
    """Measure what is not known yet of `precisions` and the bandwidths, or all of it `again`; keep and return it.

    fp32 is always among them, since every narrower precision may be computed in it, and a figure that was disturbed
    is not yet known. `say` is told that measuring starts, that a damaged file is replaced and that other work
    disturbed the figures. Raises BenchError when the process that measures is lost or answers nothing for
    `timeout_seconds`, or when the figures cannot be written. It takes about 1.5 s a precision, 3 s for memory and 3 s
    to start, and no worker may be busy meanwhile.
    """
    path = _path(root, device, threads)
    kept, damage = _read(path)
    if damage:
        say(f"{path.name} is damaged ({damage}); the machine's limits are measured again")
    done = (kept.figures | set(kept.unmeasured)) - set(kept.disturbed) if kept and not again else set()
    wanted = [figure for figure in dict.fromkeys(("fp32", *precisions, "memory")) if figure not in done]
    if kept and not wanted:
        return kept
    say(f"measuring this machine's limits: {', '.join(wanted)} on {device} with {threads} thread{'s' * (threads > 1)}")
    try:
        process = start(device, wanted, threads, effort or Effort.usual(device))
    except OSError as error:
        raise BenchError(f"the process that measures this machine's limits did not start ({error})") from None
    try:
        found = Peaks.from_json(process.request({"op": "measure"}, timeout_seconds))
    except channel.WorkerError as error:
        words = (error.details.get("stderr") or [""])[-1]
        reason = f"{error.reason}: {words}" if words else error.reason
        raise BenchError(f"this machine's limits could not be measured ({reason}); run the command again") from None
    finally:
        process.kill()
    if found.disturbed:
        share = max(found.disturbed.values())
        say(f"other work took {share:.0%} of the CPUs: the limits may read low and are measured again next time")
    return _keep(path, found)


def start(device: str, figures: Sequence[str], threads: int, effort: Effort) -> channel.Worker:
    """Start the process that measures `figures`: precisions, and "memory" for the bandwidths."""
    buffers = effort.buffers_bytes if "memory" in figures else ()
    command = [*channel.python_module("bench.peaks"), "--device", device, "--threads", str(threads)]
    command += ["--precisions", ",".join(figure for figure in figures if figure != "memory")]
    command += ["--seconds", str(effort.seconds), "--sides", _join(effort.sides), f"--buffers={_join(buffers)}"]
    # Reads are faster from large pages than from the small ones that weights mostly lie on; a limit is the faster.
    return channel.Worker([*command, "--parent", str(os.getpid())], threads, {"THP_MEM_ALLOC_ENABLE": "1"})


def _join(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def deciding(device: str, threads: int) -> dict[str, Any]:
    """All that decides the figures; two machines that share it share a file."""
    return {
        "version": VERSION,
        "cpu": machine.cpu_name(),
        "cpus": machine.usable_cpus(),
        "architecture": platform.machine(),
        "gpus": [gpu["name"] for gpu in machine.gpus()],
        "device": device,
        "threads": threads,
        "torch": distribution_version("torch"),
    }


def _path(root: Path, device: str, threads: int) -> Path:
    return root / "machine" / f"peaks-{recipe_key(deciding(device, threads))}.json"


def _read(path: Path) -> tuple[Peaks | None, str]:
    """The figures in file `path`, and what is wrong with it, if anything is."""
    try:
        return Peaks.from_json(json.loads(path.read_text())["peaks"]), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        return None, one_line(error)[:200]


def _keep(path: Path, found: Peaks) -> Peaks:
    """Merge `found` into file `path`, written aside and renamed; what another process kept meanwhile is merged too."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            kept, _ = _read(path)
            merged = kept.merged(found) if kept else found
            content = {"machine": deciding(found.device, found.threads), "peaks": merged.to_json()}
            try:
                with aside.open("w") as file:
                    file.write(json.dumps(content, indent=1))
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(
            f"this machine's limits cannot be kept in {str(path)!r} ({error.strerror or error}); "
            "free some space or use --artifacts with a folder of yours"
        ) from error
    return merged


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock

    with FileLock(path.with_name(f".lock-{path.stem}")):
        yield


def answer(args: argparse.Namespace) -> dict[str, Any]:
    """The reply to {"op": "measure"}: the peaks as JSON types, or why there are none."""
    effort = Effort(args.seconds, _numbers(args.sides), _numbers(args.buffers))
    precisions = [name for name in args.precisions.split(",") if name]
    try:
        figures = readings.measured(readings.Device(args.device, args.threads), precisions, effort)
    except Exception as error:  # whatever a driver or a full memory makes torch raise becomes the reason
        is_oom = parse_out_of_memory(f"{type(error).__name__}: {error}") is not None
        return {"error": {"status": "oom" if is_oom else "failed", "reason": one_line(error)}}
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    return {"ok": {"device": args.device, "threads": args.threads, "measured": measured, **figures}}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def parser() -> argparse.ArgumentParser:
    """The measuring process's command line."""
    result = argparse.ArgumentParser(prog="python -m bench.peaks", description="The machine's limits, measured.")
    result.add_argument("--device", default="cpu")
    result.add_argument("--precisions", default="fp32", help="comma-separated")
    result.add_argument("--threads", type=int, default=1)
    result.add_argument("--seconds", type=float, default=1.2, help="a precision")
    result.add_argument("--sides", default=_join(readings.SIDES["cpu"]), help="of the matrices, comma-separated")
    result.add_argument(
        "--buffers", default=_join(readings.BUFFERS_BYTES["cpu"]), help="bytes to read, comma-separated"
    )
    result.add_argument("--parent", type=int, default=0, help="process to die with; 0 for none")
    return result


def main() -> None:
    """Measure when asked to, and end with the input."""
    args = parser().parse_args()
    channel.take_up_work(args.parent)
    channel.serve(lambda request: answer(args))


if __name__ == "__main__":
    main()
