"""Workers: what they print does not reach the channel, and every way of ending is told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.process.channel import Worker, WorkerError


def null_worker(variant: str = "default") -> Worker:
    command = [
        sys.executable,
        "-m",
        "bench.worker",
        "--backend",
        "null",
        "--variant",
        variant,
        "--parent",
        str(os.getpid()),
    ]
    return Worker(command, threads=1)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def begin(batch: int) -> dict:
    inputs = {"batch": batch, "length": 8, "vocab_size": 100, "pad_token_id": 0, "seed": 0, "output_width": 8}
    request = {"plan": inputs, "sampling": {"warmup_seconds": 0.01}, "boundary": "device"}
    return {"op": "begin", "key": "0", "cell": "bench.workloads.forward:ForwardCell", "request": request}


@pytest.fixture
def worker(request: pytest.FixtureRequest):
    started = null_worker(getattr(request, "param", "default"))
    started.request({"op": "hello"}, 60)
    started.request({"op": "load"}, 60)
    yield started
    started.kill()


@pytest.mark.parametrize("worker", ["chatty"], indirect=True)
def test_prints_of_libraries_do_not_reach_the_channel(worker: Worker) -> None:
    reply = worker.request(begin(4), 60)
    assert reply["once"]["first_call_ns"] > 0
    assert worker.request({"op": "turn", "key": "0", "request": {"seconds": 0.01}}, 60)["times_ns"]["wall"]
    words = worker.last_words()
    assert "a C library's print" in words
    assert any("not json" in line for line in words)


@pytest.mark.parametrize("worker", ["crash"], indirect=True)
def test_a_death_names_the_signal_and_the_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.request(begin(4), 60)
    assert (caught.value.status, caught.value.is_gone) == ("failed", True)
    assert caught.value.details["signal"] == "SIGKILL"
    assert caught.value.details["stderr"][-1].startswith("null:crash is about to kill")
    assert caught.value.details["seconds"] >= 0


@pytest.mark.parametrize("worker", ["hang"], indirect=True)
def test_silence_is_a_timeout_and_ends_the_worker(worker: Worker) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.request(begin(4), 0.5)
    assert (caught.value.status, caught.value.is_gone) == ("timeout", True)
    assert wait_until(lambda: not is_running(worker.pid))


@pytest.mark.parametrize(("variant", "status"), [("oom", "oom"), ("fail", "failed")])
def test_an_error_reply_leaves_the_worker_alive(variant: str, status: str) -> None:
    worker = null_worker(variant)
    try:
        worker.request({"op": "hello"}, 60)
        worker.request({"op": "load"}, 60)
        with pytest.raises(WorkerError) as caught:
            worker.request(begin(4), 60)
        assert (caught.value.status, caught.value.is_gone) == (status, False)
        if status == "oom":
            assert caught.value.details == {"requested_bytes": 2**30}
        assert worker.request(begin(1), 60)["once"]["first_call_ns"] > 0
    finally:
        worker.kill()


def test_a_line_that_is_no_reply_ends_the_worker() -> None:
    code = "import sys; print('a site customization prints', flush=True); sys.stdin.read()"
    worker = Worker([sys.executable, "-c", code], threads=1)
    with pytest.raises(WorkerError, match="carried 'a site customization prints'") as caught:
        worker.request({"op": "hello"}, 60)
    assert (caught.value.status, caught.value.is_gone) == ("failed", True)


def test_a_worker_ends_when_its_input_ends(worker: Worker) -> None:
    worker.close()
    assert wait_until(lambda: not is_running(worker.pid))


def test_a_worker_has_the_thread_budget_in_its_environment(worker: Worker) -> None:
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=1" in environment
    assert b"HF_HUB_OFFLINE=1" in environment


DRIVER = """
import os, sys, time
from bench.process.channel import Worker
worker = Worker([sys.executable, "-m", "bench.worker", "--backend", "null", "--variant", "hang", "--parent", str(os.getpid())], 1)
worker.request({"op": "hello"}, 60)
worker.request({"op": "load"}, 60)
inputs = {"batch": 4, "length": 8, "vocab_size": 100, "pad_token_id": 0, "seed": 0, "output_width": 8}
request = {"plan": inputs, "sampling": {}, "boundary": "device"}
worker.send({"op": "begin", "key": "0", "cell": "bench.workloads.forward:ForwardCell", "request": request})
print(worker.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_busy_worker_dies_with_its_driver(root: Path, ending: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    assert is_running(pid)
    driver.send_signal(ending)
    driver.wait(timeout=20)
    driver.stdout.close()
    assert wait_until(lambda: not is_running(pid))
