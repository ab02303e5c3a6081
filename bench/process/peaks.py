"""The machine's limits, measured once: operations a second at each precision, bytes a second from memory and caches.

`python -m bench.process.peaks` measures in a process of its own. Figures are kept in ROOT/machine/peaks-KEY.json, where
KEY hashes all that decides them; measuring again keeps the larger, as a busy machine can miss a limit.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.base import distribution_version, one_line
from bench import machine
from bench.errors import BenchError, Say
from bench.machine import readings
from bench.machine.readings import Effort
from bench.machine.roofline import Peaks
from bench.process import channel
from exporters.store import recipe_key

#: Raise when the same machine would give other figures; part of the key.
VERSION = 1


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
    """Measure what is not known yet of `precisions`, fp32 and the bandwidths, or all of it `again`; keep and return it.

    A disturbed figure is not yet known. Raises BenchError if the process that measures is lost or silent for
    `timeout_seconds`, or if the figures cannot be written. No worker may be busy meanwhile.
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
    effort = effort or Effort.usual(device)
    request = {
        "op": "measure", "device": device, "threads": threads, "seconds": effort.seconds, "sides": effort.sides,
        "precisions": [figure for figure in wanted if figure != "memory"],
        "buffers_bytes": effort.buffers_bytes if "memory" in wanted else (),
    }  # fmt: skip
    try:
        process = start(threads)
    except OSError as error:
        raise BenchError(f"the process that measures this machine's limits did not start ({error})") from None
    try:
        found = Peaks.from_json(process.request(request, timeout_seconds))
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


def start(threads: int) -> channel.Worker:
    """Start the process that measures."""
    # Reads are faster from large pages than from the small ones that weights mostly lie on; a limit is the faster.
    return channel.start("bench.process.peaks", [], threads, THP_MEM_ALLOC_ENABLE="1")


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, one_line(error)[:200]


def _keep(path: Path, found: Peaks) -> Peaks:
    """Merge `found` into file `path`, written aside and renamed; what another process kept meanwhile is merged too."""
    from filelock import FileLock

    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".lock-{path.stem}")):
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


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply of the process that measures: the peaks as JSON types, or an error."""

    def found() -> dict[str, Any]:
        device = readings.Device(request["device"], request["threads"])
        effort = Effort(request["seconds"], tuple(request["sides"]), tuple(request["buffers_bytes"]))
        figures = readings.measured(device, request["precisions"], effort)
        measured = datetime.now(UTC).isoformat(timespec="seconds")
        return {"device": device.name, "threads": device.threads, "measured": measured, **figures}

    return channel.answered(found)


if __name__ == "__main__":
    channel.serve(answer, channel.parent())
