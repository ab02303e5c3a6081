"""Parts of chaos.py that strike processes: kills, signals, stops, two runs on one store, pruning beside one, a soak."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos_rules import Call, Ended, World, call, faults_of, faults_of_run, fork, kill

SHORT = "--rounds 2 --max-seconds-per-cell 50ms --warmup 1ms --max-warmup 5ms --target-precision 90%"
BERT, TWO = "--model bert-tiny", "--backends null,null:50us"


@dataclass(frozen=True)
class Sample:
    """A run of one workload that takes a second or two."""

    words: str
    cells: int

    @property
    def command(self) -> str:
        """The command's name."""
        return self.words.split()[0]


SAMPLES = {
    "forward": Sample(f"compare {BERT} {TWO} --shapes 1x4,1x8,2x8 {SHORT}", 6),
    "corpus": Sample(
        f"corpus {BERT} {TWO} --synthetic 5 --batches 1,2 --orders unsorted,sorted --rounds 2 --warmup 1ms", 8
    ),
    "load": Sample(f"load {BERT} {TWO} --rate 400 --duration 50ms --rounds 2", 2),
    "generate": Sample(
        f"generate --model gpt2-tiny {TWO} --prompt-length 4 --new-tokens 3 --batches 1,2 {SHORT}", 4
    ),
    "memory": Sample(f"memory {BERT} {TWO} --lengths 8 --largest-batch --max-batch 2", 4),
    "parity": Sample(f"parity {BERT} {TWO} --batches 1,2 --lengths 4 --masks full", 4),
    "coldstart": Sample(f"coldstart {BERT} {TWO} --rounds 2", 4),
}  # fmt: skip
#: References and an export are made; in a store of its own that has none, that is the longest part of it.
MAKES = Sample(f"compare {BERT} --backends eager,torchscript --shapes 1x4 {SHORT}", 2)
#: A trial: its number, and everything that is to be known of it.
Trials = Iterator[tuple[str, list[str]]]


def words_of(sample: Sample, store: Path, output: Path, *more: str) -> list[str]:
    """The command line of a sample."""
    fixed = ["--device", "cpu", "--threads", "1", "--artifacts", str(store), "--output", str(output)]
    return [*sample.words.split(), *fixed, *more]


def resumed(sample: Sample, world: World, store: Path, path: Path, ended: Ended | None) -> list[str]:
    """Read what a struck run left, go on with it, and hold it to the rules; or begin again if it left nothing."""
    if not path.exists() or not path.read_bytes():
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        again = call(words_of(sample, store, path), world.folder)
        return [f"again: {fault}" for fault in faults_of(again, world)] + faults_of_run(path, sample.cells)
    found = faults_of_run(path, None)
    read = fork(["report", str(path)], world.folder)
    found += [f"report: {fault}" for fault in faults_of(read, world)]
    is_half = b'"is_complete":true' not in path.read_bytes().splitlines()[-1]
    if is_half and not any(word in read.said for word in ("CUT:", "Incomplete:", "holds no run", "is no run")):
        found.append("report: a half-written file was taken for whole")
    again = call([sample.command, "--resume", str(path), "--artifacts", str(store)], world.folder)
    if again.code == 2 and "no run" in again.said:  # killed within its first line: nothing to go on from
        return found
    return found + [f"resume: {fault}" for fault in faults_of(again, world)] + faults_of_run(path, sample.cells)


def _times(world: World, trials: int) -> Callable[[str], float]:
    """How long a sample takes here, measured when it is first asked for; a few trials do with a guess."""
    known: dict[str, float] = dict.fromkeys(SAMPLES, 2.0) if trials < 20 else {}

    def seconds(name: str) -> float:
        if name not in known:
            known[name] = call(words_of(SAMPLES[name], world.store, world.path(f"{name}.jsonl")), world.folder).seconds
        return known[name]

    return seconds


def kills(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """SIGKILL to the driver in every second trial, else to any other process of the run; then --resume."""
    seconds = _times(world, len(numbers))
    for number in numbers:
        rng = draw(number)
        name = list(SAMPLES)[number // 2 % len(SAMPLES)]
        is_driver, sample, store = number % 2 == 0, SAMPLES[name], world.store
        limit = seconds(name)
        if number % 20 in (16, 17):  # a store with nothing in it, so that exporters and references are struck too
            name, sample, store, limit = "making", MAKES, world.path("store"), 12.0
            shutil.copytree(world.store / "machine", store / "machine")
        path = world.path(f"{name}.jsonl")
        running = Call(words_of(sample, store, path, "--timeout", "60"), world.folder)
        moment = rng.uniform(0, limit)
        time.sleep(moment)
        struck = "driver"
        if is_driver:
            kill(running.process.pid)
        else:
            struck = _kill_another(running, rng)
        ended = running.wait()
        found = faults_of(ended, world, signals=(signal.SIGKILL,) if is_driver else ())
        if _lost_its_checkpoint(sample, path, ended) or (is_driver and ended.code == -signal.SIGKILL):
            found += resumed(sample, world, store, path, ended)
        elif ended.code != 2 or path.exists():
            found += faults_of_run(path, sample.cells)
        else:
            found.append(f"no run: {ended.errors[-200:]}")
        shutil.rmtree(store) if store != world.store else None
        yield f"{name}: {struck} killed after {moment:.2f} s", found


def _lost_its_checkpoint(sample: Sample, path: Path, ended: Ended) -> bool:
    """True for a run that ended in one line as what all of its cells need could not be made; it can be gone on with."""
    is_over = path.exists() and b'"is_complete":true' in path.read_bytes()
    return ended.code == 1 and sample is MAKES and path.exists() and not is_over


def _kill_another(running: Call, rng: random.Random) -> str:
    """Kill any process but the driver, waiting for one to be there; says which."""
    while running.process.poll() is None:
        if others := running.children():
            one = rng.choice(others)
            words = []
            with contextlib.suppress(psutil.Error):
                words = one.cmdline()
            kill(one.pid)
            return " ".join(words[3:6]) or "a process"
        time.sleep(0.005)
    return "nothing (it was over)"


def signals(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """Ctrl-C or SIGTERM at any moment, the first milliseconds included; then --resume."""
    seconds = _times(world, len(numbers))
    for number in numbers:
        rng = draw(number)
        name = rng.choice(list(SAMPLES))
        sent = rng.choice((signal.SIGINT, signal.SIGTERM))
        path = world.path(f"{name}.jsonl")
        limit = seconds(name)
        running = Call(words_of(SAMPLES[name], world.store, path), world.folder)
        moment = rng.uniform(0, 0.5) if number % 4 == 0 else rng.uniform(0, limit)
        time.sleep(moment)
        kill(running.process.pid, sent)
        ended = running.wait()
        found = faults_of(ended, world, signals=(sent,))
        if ended.code not in (128 + sent, -sent, 0, 1, 6):
            found.append(f"exit code {ended.code} after {sent.name}")
        found += resumed(SAMPLES[name], world, world.store, path, ended)
        yield f"{name}: {sent.name} after {moment:.2f} s", found


def stops(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """SIGSTOP to each kind of process: the driver goes on later, any other is given up after the silence."""
    kinds = ("driver", "worker", "export")
    for number in numbers:
        rng, kind = draw(number), kinds[number % len(kinds)]
        name = rng.choice(list(SAMPLES))
        sample, store = (SAMPLES[name], world.store) if kind != "export" else (MAKES, world.path("store"))
        if kind == "export":
            shutil.copytree(world.store / "machine", store / "machine")
        path = world.path("stopped.jsonl")
        running = Call(words_of(sample, store, path, "--timeout", "5"), world.folder)
        wanted = {"driver": "", "worker": "bench.worker", "export": "bench.process.export"}[kind]
        struck = _stop(running, wanted, rng)
        ended = running.wait(90)
        found = faults_of(ended, world)
        if _lost_its_checkpoint(sample, path, ended):
            found += resumed(sample, world, store, path, ended)
        elif not ended.is_late:
            found += faults_of_run(path, sample.cells) if path.exists() else [f"no run: {ended.errors[-200:]}"]
        shutil.rmtree(store) if store != world.store else None
        yield f"{name if kind != 'export' else 'making'}: {struck} stopped", found


def _stop(running: Call, wanted: str, rng: random.Random) -> str:
    if not wanted:
        time.sleep(rng.uniform(0.3, 2))
        kill(running.process.pid, signal.SIGSTOP)
        time.sleep(1)
        kill(running.process.pid, signal.SIGCONT)
        return "driver"
    while running.process.poll() is None:
        for one in running.children():
            with contextlib.suppress(psutil.Error):
                if wanted in (words := one.cmdline()):
                    time.sleep(rng.uniform(0, 1))
                    kill(one.pid, signal.SIGSTOP)
                    return " ".join(words[3:6])
        time.sleep(0.005)
    return f"no {wanted}, so nothing was"


def two_runs(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """Two runs on one store; in every second trial the store is empty, and both need the same exports."""
    for number in numbers:
        rng, store = draw(number), world.store
        samples = [rng.choice(list(SAMPLES.values())) for _ in range(2)]
        if number % 2:
            store = world.path("store")
            shutil.copytree(world.store / "machine", store / "machine")
            samples = [MAKES, MAKES]
        paths = [world.path(f"{one.command}.jsonl") for one in samples]
        running = []
        for sample, path in zip(samples, paths, strict=True):
            running.append(Call(words_of(sample, store, path), world.folder))
            time.sleep(rng.uniform(0, 0.5))
        found = []
        for one, sample, path in zip(running, samples, paths, strict=True):
            found += faults_of(one.wait(), world)
            found += faults_of_run(path, sample.cells) if path.exists() else ["no run"]
        found += _unsound(world, store)
        shutil.rmtree(store) if store != world.store else None
        yield " beside ".join(one.command for one in samples), found


def _unsound(world: World, store: Path) -> list[str]:
    """What is not as it should be in a store that nothing uses."""
    checked = fork(["artifacts", "verify", "--artifacts", str(store)], world.folder)
    aside = [path.name for path in (store / "store").glob(".making-*")]
    return (
        [f"the store: {fault}" for fault in faults_of(checked)]
        + ([f"the store is damaged: {checked.output[-300:]}"] if checked.code else [])
        + [f"left in the store: {name}" for name in aside]
    )


def prune(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """`artifacts prune --keep 0B` again and again beside a run that makes and uses artifacts."""
    for number in numbers:
        rng = draw(number)
        store, path = world.path("store"), world.path("pruned.jsonl")
        shutil.copytree(world.store / "machine", store / "machine")
        running = Call(words_of(MAKES, store, path), world.folder)
        found, pruned = [], 0
        while running.process.poll() is None:
            ended = fork(["artifacts", "prune", "--keep", "1MB", "--artifacts", str(store)], world.folder)
            found += [f"prune: {fault}" for fault in faults_of(ended)]
            pruned += 1
            time.sleep(rng.uniform(0, 0.3))
        ended = running.wait()
        found += faults_of(ended, world)
        found += faults_of_run(path, MAKES.cells) if path.exists() else [f"no run: {ended.errors[-200:]}"]
        if path.exists() and b'"status":"ok"' not in path.read_bytes():
            found.append("no cell was measured")
        found += _unsound(world, store)
        shutil.rmtree(store)
        yield f"{pruned} times beside a run", found


def soak(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """One run of many cells on `null`: memory and file handles of the parent."""
    batches = max(1, len(numbers) // 100)
    lengths = len(numbers) // batches
    cells = batches * lengths
    words = f"compare {BERT} --backends null:instant --batches {_up_to(batches)} --lengths {_up_to(lengths)} --rounds 1"
    words += " --max-seconds-per-cell 2ms --warmup 1ms --max-warmup 1ms --target-precision 90%"
    path = world.path("soak.jsonl")
    running = Call(words_of(Sample(words, cells), world.store, path, "--quiet"), world.folder)
    parent, seen = psutil.Process(running.process.pid), []
    while running.process.poll() is None:
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            done = path.read_bytes().count(b'{"kind":"record"')
            seen.append((done, parent.memory_info().rss, len(os.listdir(f"/proc/{parent.pid}/fd"))))  # noqa: PTH208
        time.sleep(1)
    ended = running.wait(7200)
    found = faults_of(ended, world) + faults_of_run(path, cells)
    timed = [one for one in seen if one[0] > cells * 0.1]
    what = f"{cells} cells in {ended.seconds:.0f} s"
    if len(timed) > 4:
        half = len(timed) // 2
        early, late = (statistics.median(one[1] for one in part) for part in (timed[:half], timed[half:]))
        between = statistics.median(one[0] for one in timed[half:]) - statistics.median(one[0] for one in timed[:half])
        growth = (late - early) / max(1, between)
        handles = [max(one[2] for one in part) for part in (timed[:half], timed[half:])]
        what += f"; parent {early / 2**20:.0f} then {late / 2**20:.0f} MiB ({growth / 1024:.1f} KiB a cell)"
        what += f", file handles {handles[0]} then {handles[1]}"
        if handles[1] > handles[0]:
            found.append(f"file handles grew from {handles[0]} to {handles[1]}")
        if growth > 32 * 1024:  # its records stay in memory, a few KiB each
            found.append(f"the parent grows by {growth / 1024:.1f} KiB a cell")
    yield what, found


def _up_to(last: int) -> str:
    return ",".join(map(str, range(1, last + 1)))
