"""The workers of one run: started, loaded, lost, ended; and which of them memory holds together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import BenchError
from bench.process import channel
from bench.process.channel import Worker, WorkerError
from bench.spec import Candidate

#: Deaths or hangs in a row after which a candidate's remaining cells are skipped.
STRIKES = 3
#: Memory of a worker beside its weights, in bytes: interpreter, runtime, activations of a small cell.
PROCESS_BYTES = {"cpu": 700 * 2**20, "cuda": 900 * 2**20}
#: Share of the free memory that workers may take together.
ROOM_SHARE = 0.8


def start(
    backend: str,
    variant: str,
    precision: str,
    device: str,
    artifact: Path | None,
    threads: int,
    root: Path,
    generation: str = "",
    python: Path | None = None,
    tf32: bool = False,
) -> Worker:
    """Start a worker's process, by another interpreter if `python` is given.

    `root` is the store's folder, which keeps compiled code; `generation` the way of generating that the model is loaded
    for, "" for forward passes; `tf32` lets fp32 products round their inputs.
    """
    arguments = ["--backend", backend, "--variant", variant, "--precision", precision, "--device", device]
    arguments += ["--threads", str(threads), "--started", str(time.monotonic_ns())]
    arguments += [f"--artifact={artifact}"] if artifact else []
    arguments += ["--generation", generation] if generation else []
    arguments += ["--tf32"] if tf32 else []
    return channel.start("bench.worker", arguments, threads, root, python)


class Pool:
    """The worker of each candidate, if it has one, and what is known of it."""

    def __init__(
        self,
        start: Callable[[Candidate], Worker],
        device: str,
        refused: dict[Candidate, WorkerError],
        weight_bytes: Mapping[Candidate, int],
        timeout_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        """`refused` are candidates that cannot run at all; `weight_bytes` is what each loads from its artifact."""
        self.start, self.device, self.refused, self.say = start, device, refused, say
        self.weight_bytes, self.timeout_seconds = weight_bytes, timeout_seconds
        self.loaded: dict[Candidate, Worker] = {}
        self.load_seconds: dict[Candidate, float] = {}
        self.memory: dict[Candidate, dict[str, int]] = {}
        self.versions: dict[Candidate, dict[str, str]] = {}
        self.strikes: dict[Candidate, int] = {}
        self.lost: dict[Candidate, WorkerError] = {}
        """Workers that died while starting; they are started again for the next cell."""
        self._starting: dict[Candidate, Worker] = {}
        """Workers that import and are not loaded yet."""

    def begin(self, candidate: Candidate) -> None:
        """Start a worker that will be loaded soon, so that it imports meanwhile."""
        if candidate not in self.loaded and candidate not in self._starting and self.known_outcome(candidate) is None:
            self._starting[candidate] = self.start(candidate)
            self._starting[candidate].send({"op": "hello"})

    def load(self, candidates: Sequence[Candidate], options: Mapping[str, Any] | None = None) -> None:
        """Start `candidates` that are not loaded: imports side by side, loads one by one, with further `options`."""
        spawned = []
        for candidate in candidates:
            self.lost.pop(candidate, None)
            self.begin(candidate)
            if candidate in self._starting:
                self.loaded[candidate] = self._starting.pop(candidate)
                spawned.append(candidate)
        steps: tuple[Callable[[Candidate], None], ...] = (self._meet, partial(self._load, dict(options or {})))
        for step in steps:
            for candidate in [one for one in spawned if one in self.loaded]:
                try:
                    step(candidate)
                except WorkerError as error:
                    self._refuse(candidate, error)

    def _meet(self, candidate: Candidate) -> None:
        self.versions[candidate] = self.loaded[candidate].receive(self.timeout_seconds)["versions"]

    def _load(self, options: dict[str, Any], candidate: Candidate) -> None:
        free = self._free_device_bytes()
        reply = self.loaded[candidate].request({"op": "load", "options": options}, self.timeout_seconds)
        self.load_seconds[candidate], self.memory[candidate] = reply["seconds"], reply["memory"]
        # Other processes allocate on the card too, so without a positive difference nothing is known of this one.
        if free > (left := self._free_device_bytes()) > 0:
            self.memory[candidate]["device_process_bytes"] = free - left

    def _free_device_bytes(self) -> int:
        cards = machine.gpus() if self.device == "cuda" else []
        return int(cards[0]["free_bytes"]) if cards else 0

    def load_alone(self, candidate: Candidate, options: Mapping[str, Any]) -> None:
        """End every worker and start this one, which may be tried again after a death; raises WorkerError."""
        self.close()
        self.load([candidate], options)
        outcome = self.known_outcome(candidate)
        self.lost.pop(candidate, None)
        if outcome is not None:
            if outcome.status == "oom":
                self.refused.pop(candidate, None)
            raise outcome

    def _refuse(self, candidate: Candidate, error: WorkerError) -> None:
        """Note why a worker did not start: for good if it said so itself, for now if it was lost."""
        self.unload(candidate)
        reason = f"{candidate.label} did not load: {error.reason}"
        outcome = WorkerError(error.status, reason, {**error.details, "during": "load"}, error.is_gone)
        if error.is_gone and error.status != "oom":
            self.lost[candidate] = outcome
        else:
            self.refused[candidate] = outcome

    def request(self, candidate: Candidate, message: Mapping[str, Any]) -> dict[str, Any]:
        """A loaded worker's reply; a worker that is gone is unloaded. Raises WorkerError."""
        try:
            return self.loaded[candidate].request(message, self.timeout_seconds)
        except WorkerError as error:
            if error.is_gone:
                self.unload(candidate)
            raise

    def close(self) -> None:
        """End every worker."""
        for candidate in [*self.loaded, *self._starting]:
            self.unload(candidate)

    def unload(self, candidate: Candidate) -> None:
        """End one worker, if there is one."""
        for workers in (self.loaded, self._starting):
            if worker := workers.pop(candidate, None):
                worker.kill()

    def note(self, candidate: Candidate, error: WorkerError | None) -> None:
        """Count deaths and hangs in a row; a cell that went well ends the row."""
        if error is None:
            self.strikes[candidate] = 0
        elif error.status in ("failed", "timeout") and error.is_gone:
            self.strikes[candidate] = self.strikes.get(candidate, 0) + 1

    def known_outcome(self, candidate: Candidate) -> WorkerError | None:
        """Why no cell of a candidate need be tried, if so."""
        if found := self.refused.get(candidate) or self.lost.get(candidate):
            return found
        if self.strikes.get(candidate, 0) >= STRIKES:
            return WorkerError("skipped", f"given up after {STRIKES} dead or hung workers in a row")
        return None

    def groups(self, candidates: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
        """Candidates that take turns: all of them, loaded now, or each alone if memory does not hold all."""
        for candidate in [one for one in self._starting if one in self.refused]:
            self.unload(candidate)
        usable = [one for one in candidates if one not in self.refused]
        if not usable:  # perhaps as there is no such device
            return [tuple(candidates)]
        missing = [one for one in usable if one not in self.loaded]
        needed = sum(2 * self.weight_bytes.get(one, 0) + PROCESS_BYTES[self.device] for one in missing)
        available = self._free_device_bytes() if self.device == "cuda" else machine.available_memory_bytes()
        if self.device == "cuda" and not available:
            raise BenchError("the GPU does not answer any more; look at nvidia-smi, and go on with --resume")
        fits = len(usable) < 2 or not missing or needed <= ROOM_SHARE * available
        if fits:
            self.load(usable)
            crowded_out = [one for one in usable if one in self.refused and self.refused[one].status == "oom"]
            fits = not (crowded_out and self.loaded)
            for candidate in crowded_out if not fits else []:
                del self.refused[candidate]
        if fits:
            return [tuple(candidates)]
        self.close()
        self.say(
            f"memory ({available / 2**30:.1f} GiB free) does not hold all workers; they are timed one after another"
        )
        return [(candidate,) for candidate in candidates]
