"""The workers of one run: started, loaded, lost, ended; and who of them fits into memory together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import machine
from bench.errors import BenchError
from bench.machine import capacity
from bench.preparation import Preparation
from bench.process.channel import Worker, WorkerError
from bench.process.session import start
from bench.spec import Candidate, Shape

#: Deaths or hangs in a row after which a contestant's remaining cells are skipped.
STRIKES = 3
#: Memory of a worker beside its weights, in bytes: interpreter, runtime, activations of a small cell.
PROCESS_BYTES = {"cpu": 700 * 2**20, "cuda": 900 * 2**20}


def start_worker(prepared: Preparation, contestant: Candidate) -> Worker:
    """The process of one contestant in its own environment, with nothing in it yet."""
    artifact, grid = prepared.artifacts.get(contestant), prepared.grid
    return start(
        contestant.backend,
        contestant.variant,
        contestant.precision,
        grid.device,
        artifact.path if artifact else None,
        grid.threads,
        prepared.store.root,
        prepared.generates_by(contestant),
        prepared.python_of(contestant),
        grid.tf32,
    )


class Workers:
    """The worker of each contestant, where it has one, and what is known of it."""

    def __init__(self, prepared: Preparation, timeout_seconds: float) -> None:
        self.prepared, self.grid, self.say, self.timeout_seconds = (
            prepared,
            prepared.grid,
            prepared.say,
            timeout_seconds,
        )
        self.refused = prepared.refused
        self.loaded: dict[Candidate, Worker] = {}
        self.load_seconds: dict[Candidate, float] = {}
        self.memory: dict[Candidate, dict[str, int]] = {}
        self.versions: dict[Candidate, dict[str, str]] = {}
        self.strikes: dict[Candidate, int] = {}
        self.lost: dict[Candidate, WorkerError] = {}
        """Workers that died while starting; they are started again for the next shape."""

    def load(self, contestants: Sequence[Candidate]) -> None:
        """Start the workers of `contestants` that are not loaded: imports side by side, loads one by one."""
        spawned = {}
        for contestant in contestants:
            self.lost.pop(contestant, None)
            if contestant in self.loaded or contestant in self.refused or self.is_given_up(contestant):
                continue
            worker = start_worker(self.prepared, contestant)
            worker.send({"op": "hello"})
            spawned[contestant] = worker
            self.loaded[contestant] = worker
        for contestant, worker in spawned.items():
            try:
                told = worker.receive(self.timeout_seconds)["versions"]
                self.versions[contestant] = self.prepared.versions(contestant, told)
            except WorkerError as error:
                self._refuse(contestant, error)
        for contestant, worker in spawned.items():
            if contestant in self.loaded:
                try:
                    reply = worker.request({"op": "load"}, self.timeout_seconds)
                    self.load_seconds[contestant] = reply["seconds"]
                    self.memory[contestant] = reply["memory"]
                except WorkerError as error:
                    self._refuse(contestant, error)

    def _refuse(self, contestant: Candidate, error: WorkerError) -> None:
        """Note why a worker did not start: for good if it said so itself, for now if it was lost."""
        self.unload(contestant)
        reason = f"{contestant.label} did not load: {error.reason}"
        outcome = WorkerError(error.status, reason, error.details, error.is_gone)
        if error.is_gone and error.status != "oom":
            self.lost[contestant] = outcome
        else:
            self.refused[contestant] = outcome

    def close(self) -> None:
        """End every worker."""
        for worker in self.loaded.values():
            worker.kill()
        self.loaded.clear()

    def unload(self, contestant: Candidate) -> None:
        """End one worker; nothing where it is not loaded."""
        if worker := self.loaded.pop(contestant, None):
            worker.kill()

    def is_given_up(self, contestant: Candidate) -> bool:
        """True after `STRIKES` deaths or hangs in a row."""
        return self.strikes.get(contestant, 0) >= STRIKES

    def without_room(self, contestant: Candidate, shape: Shape, peaks: Mapping[Shape, int]) -> WorkerError | None:
        """Why a cell would exceed the host's memory, as far as its `peaks` (bytes) at smaller shapes foretell it.

        "skipped" where it would even alone, "oom" where it would beside the others. A GPU's allocator refuses at once
        and harms nobody; the host's kernel first takes the memory of everything else, and may swap for hours.
        """
        if self.grid.device != "cpu" or capacity.foreseen_bytes(peaks, shape) is None:
            return None
        held = {who: self.memory.get(who, {}).get("process_bytes", 0) for who in self.loaded}
        free = machine.available_memory_bytes()
        if reason := capacity.refusal(peaks, shape, free + sum(held.values())):
            return WorkerError("skipped", reason)
        if reason := capacity.refusal(peaks, shape, free + held.get(contestant, 0)):
            return WorkerError("oom", reason)
        return None

    def groups(self) -> list[tuple[Candidate, ...]]:
        """Contestants that take turns: all of them, loaded now, or each alone where memory does not hold all."""
        usable = [c for c in self.grid.contestants if c not in self.refused]
        needed = sum(self._weight_bytes(c) + PROCESS_BYTES[self.grid.device] for c in usable)
        available = _free_device_bytes() if self.grid.device == "cuda" else machine.available_memory_bytes()
        fits = len(usable) < 2 or needed <= 0.8 * available
        if fits:
            self.load(usable)
            crowded_out = [c for c in usable if c in self.refused and self.refused[c].status == "oom"]
            fits = not (crowded_out and self.loaded)
            for contestant in crowded_out if not fits else []:
                del self.refused[contestant]
        if fits:
            return [self.grid.contestants]
        self.close()
        self.say(
            f"memory ({available / 2**30:.1f} GiB free) does not hold all workers; they are timed one after another"
        )
        return [(contestant,) for contestant in self.grid.contestants]

    def _weight_bytes(self, contestant: Candidate) -> int:
        artifact = self.prepared.artifacts.get(contestant)
        # Loading holds the weights twice for a moment, and a compiled backend keeps packed copies.
        return 2 * artifact.bytes if artifact else 0


def _free_device_bytes() -> int:
    if not (cards := machine.gpus()):
        raise BenchError("the GPU does not answer any more; look at nvidia-smi, and go on with --resume")
    return int(cards[0]["free_bytes"])
