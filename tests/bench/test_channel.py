"""Workers: what they print does not reach the channel, and every way of ending is told apart."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.process import channel
from bench.process.channel import Worker, WorkerError


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pid: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_running(pid)


def begin(batch: int) -> dict:
    inputs = {"batch": batch, "length": 8, "vocab_size": 100, "pad_token_id": 0, "seed": 0, "output_width": 8}
    request = {"plan": inputs, "sampling": {"warmup_seconds": 0.01}, "boundary": "device"}
    return {"op": "begin", "key": "0", "cell": "bench.workloads.forward:ForwardCell", "request": request}


def loaded(variant: str) -> Worker:
    started = channel.start("bench.worker", ["--backend", "null", "--variant", variant], threads=1)
    started.request({"op": "hello"}, 60)
    started.request({"op": "load"}, 60)
    return started


@pytest.fixture
def worker(request: pytest.FixtureRequest):
    started = loaded(request.param)
    yield started
    started.kill()


@pytest.mark.parametrize("worker", ["chatty"], indirect=True)
def test_prints_of_libraries_do_not_reach_the_channel(worker: Worker) -> None:
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"HF_HUB_OFFLINE=1"} <= set(environment)
    reply = worker.request(begin(4), 60)
    assert reply["once"]["first_call_ns"] > 0
    assert worker.request({"op": "turn", "key": "0", "request": {"seconds": 0.01}}, 60)["times_ns"]["wall"]
    words = worker.last_words()
    assert "a C library's print" in words
    assert any("not json" in line for line in words)
    worker.close()
    assert has_ended(worker.pid)


@pytest.mark.parametrize(
    ("worker", "seconds", "status", "is_gone"),
    [
        ("crash", 60, "failed", True),
        ("hang", 0.5, "timeout", True),
        ("oom", 60, "oom", False),
        ("fail", 60, "failed", False),
    ],
    indirect=["worker"],
)
def test_every_way_of_ending_is_told_apart(worker: Worker, seconds: float, status: str, is_gone: bool) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.request(begin(4), seconds)
    details = caught.value.details
    assert (caught.value.status, caught.value.is_gone) == (status, is_gone)
    if is_gone:
        assert details["seconds"] >= 0
        assert has_ended(worker.pid)
    else:
        assert worker.request(begin(1), 60)["once"]["first_call_ns"] > 0
    if status == "oom":
        assert details == {"requested_bytes": 2**30}
    if details.get("signal"):
        assert details["signal"] == "SIGKILL"
        assert details["stderr"][-1].startswith("null:crash is about to kill")
    assert ("signal" in details) == (status == "failed" and is_gone)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('a site customization prints', flush=True); sys.stdin.read()", "carried 'a site customization prints'"),
        ("sys.exit(3)", "exited with code 3 after"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40 after"),  # a real-time signal, without a name
    ],
)
def test_a_process_that_is_no_worker_ends(code: str, message: str) -> None:
    worker = Worker([sys.executable, "-c", f"import sys; {code}"], threads=1)
    with pytest.raises(WorkerError, match=message) as caught:
        worker.request({"op": "hello"}, 60)
    assert (caught.value.status, caught.value.is_gone) == ("failed", True)
    worker.kill()


SERVER = """
import sys, time
from bench.process import channel

def answer(request):
    until = time.monotonic() + request["seconds"]
    while time.monotonic() < until:
        time.sleep(0.01) if request["sleeps"] else None
    return {"ok": {"done": True}}

channel.serve(answer, 0)
"""
SHORT, LONG = {"seconds": 3, "sleeps": True}, {"seconds": 60, "sleeps": False}


@pytest.fixture
def server() -> Iterator[Worker]:
    started = Worker([sys.executable, "-c", SERVER], threads=1)
    started.request({"seconds": 0, "sleeps": True}, 60)
    yield started
    started.kill()


def test_a_process_that_works_longer_than_the_silence_shows_that_it_lives(server: Worker) -> None:
    assert server.work(SHORT, 2) == {"done": True}
    with pytest.raises(WorkerError, match="no answer within 1 s"):
        server.request(SHORT, 1)


def test_a_stopped_process_shows_nothing_and_one_that_loops_is_not_waited_for(server: Worker) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match=r"no answer within 0\.5 s; the worker was killed") as caught:
        server.work(SHORT, 0.5)
    assert (caught.value.status, caught.value.is_gone, has_ended(server.pid)) == ("timeout", True, True)
    for most, message in ((100.0, "not done in 4 s"), (1.0, "not done in 1 s")):
        looping = Worker([sys.executable, "-c", SERVER], threads=1)
        looping.request({"seconds": 0, "sleeps": True}, 60)
        with pytest.raises(WorkerError, match=message):
            looping.work(LONG, 1, most)
        assert has_ended(looping.pid)


def test_what_a_worker_left_in_a_session_of_its_own_ends_with_it() -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['setsid', 'sleep', '600']); print(p.pid, flush=True)"
    worker = Worker([sys.executable, "-c", f"{code}; sys.stdin.read()"], threads=1)
    with pytest.raises(WorkerError, match="carried") as caught:
        worker.receive(60)
    pid = int(re.search(r"carried '(\d+)'", caught.value.reason)[1])
    assert has_ended(pid)


def test_there_is_no_heartbeat_unless_it_is_asked_for(root: Path) -> None:
    """Nothing may run beside a worker that is timing, not even its own thread."""
    first_lines = []
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        for further in ({}, {"heartbeat_seconds": 0.1}):
            server.stdin.write(json.dumps({"seconds": 1, "sleeps": True, **further}).encode() + b"\n")
            server.stdin.flush()
            first_lines.append(server.stdout.readline())
        server.kill()
    assert first_lines == [b'{"ok": {"done": true}}\n', channel.HEARTBEAT + b"\n"]


DRIVER = """
import time
from tests.bench.test_channel import begin, loaded
worker = loaded("hang")
worker.send(begin(4))
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_a_busy_worker_dies_with_its_driver(root: Path) -> None:
    endings = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for _ in endings
    ]  # fmt: skip
    for driver, ending in zip(drivers, endings, strict=True):
        with driver:
            assert driver.stdout is not None
            pid = int(driver.stdout.readline())
            assert is_running(pid)
            driver.send_signal(ending)
            driver.wait(timeout=20)
        assert has_ended(pid)
