"""The machine's limits, measured once: operations a second at each precision, bytes a second from memory and caches.

`python -m bench.process.peaks` measures in a process of its own and answers {"op": "measure"} like a worker; `known`
and `measure` are the parent's side. Figures are kept in ROOT/machine/peaks-KEY.json, where KEY hashes all that decides
them. A figure is the best of many readings, and measuring again keeps the larger: a limit can be missed by a busy
machine, but not exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.base import distribution_version, one_line, parse_out_of_memory
from bench import machine
from bench.errors import BenchError, Say
from bench.machine import readings
from bench.machine.readings import Effort
from bench.machine.roofline import Peaks
from bench.process import channel
from exporters.store import recipe_key

#: Raise when the same machine would give other figures; part of the key.
VERSION = 1

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
    command = [*channel.python_module("bench.process.peaks"), "--device", device, "--threads", str(threads)]
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
    result = argparse.ArgumentParser(
        prog="python -m bench.process.peaks", description="The machine's limits, measured."
    )
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
