"""JSON lines between the driver and its workers, on a channel that library prints cannot reach.

A request is one line on the worker's standard input and a reply one line on what was its standard
output: the worker keeps that descriptor for itself and points descriptor 1 at standard error
before anything else runs. So a worker can be started by hand and talked to in a terminal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

STDERR_LINES = 8
PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """A request that did not succeed. `status` is the record's status; `details` go into its `failure`."""

    def __init__(
        self, status: str, reason: str, details: Mapping[str, Any] | None = None, is_gone: bool = False
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.details = dict(details or {})
        self.is_gone = is_gone
        """True when the worker process no longer lives."""


class Worker:
    """A worker process and the driver's end of its channel.

    It lives in a session of its own, so that Ctrl-C reaches the driver alone, and in a thread
    budget that every numeric library reads from its environment.
    """

    def __init__(self, command: Sequence[str], threads: int, environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self._buffer = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._final_words: list[str] = []
        self._oom_kills = _oom_kill_count()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=worker_environment(threads) | dict(environment or {}),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def request(self, message: Mapping[str, Any], timeout_seconds: float) -> dict[str, Any]:
        """Send `message` and wait for its reply without spinning; raises WorkerError."""
        self.send(message)
        return self.receive(timeout_seconds)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send `message`; a worker that is gone is noticed by `receive`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout_seconds: float) -> dict[str, Any]:
        """Wait for the next reply; raises WorkerError on an error reply, a death or silence."""
        started = time.monotonic()
        line = self._read_line(started, timeout_seconds)
        try:
            reply: dict[str, Any] = json.loads(line)
            is_reply = isinstance(reply, dict) and ("ok" in reply or "error" in reply)
        except ValueError:
            is_reply = False
        if not is_reply:
            self.kill()
            said = line[:80].decode(errors="replace")
            reason = f"the worker's standard output carried {said!r} before the worker took it over; it was killed"
            raise WorkerError("failed", reason, {"stderr": self.last_words()}, is_gone=True)
        if "error" in reply:
            error = reply["error"]
            raise WorkerError(error["status"], error["reason"], error.get("details"))
        ok: dict[str, Any] = reply["ok"]
        return ok

    def _read_line(self, started: float, timeout_seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = started + timeout_seconds - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._silence(time.monotonic() - started)
                chunk = os.read(descriptor, 1 << 20)
                if not chunk:
                    raise self._death(time.monotonic() - started)
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _silence(self, seconds: float) -> WorkerError:
        self.kill()
        details = {"seconds": round(seconds, 1), "stderr": self.last_words()}
        return WorkerError("timeout", f"no answer within {seconds:.0f} s; the worker was killed", details, is_gone=True)

    def _death(self, seconds: float) -> WorkerError:
        code = self._process.wait()
        details: dict[str, Any] = {"seconds": round(seconds, 1), "stderr": self.last_words()}
        if code >= 0:
            details["exit_code"] = code
            return WorkerError(
                "failed", f"the worker exited with code {code} after {seconds:.1f} s", details, is_gone=True
            )
        name = signal.Signals(-code).name
        details["signal"] = name
        kills = _oom_kill_count()
        if name == "SIGKILL" and kills is not None and self._oom_kills is not None and kills > self._oom_kills:
            return WorkerError("oom", "the kernel killed the worker: the host's memory ran out", details, is_gone=True)
        return WorkerError("failed", f"the worker was killed by {name} after {seconds:.1f} s", details, is_gone=True)

    def last_words(self) -> list[str]:
        """Last lines of the worker's standard error."""
        if self._errors.closed:
            return self._final_words
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 8192))
        lines = self._errors.read().decode(errors="replace").splitlines()
        return [line[:300] for line in lines if line.strip()][-STDERR_LINES:]

    def kill(self) -> None:
        """End the worker and every process that it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._release()

    def close(self) -> None:
        """Let the worker end by itself for a moment, then end it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self.kill()

    def _release(self) -> None:
        self._final_words = self.last_words()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker: this project importable, one thread budget, no network for model files."""
    root = str(Path(__file__).resolve().parents[2])
    # An installed copy is found without help, and putting site-packages first could hide the standard library.
    paths = [*([] if "site-packages" in root else [root]), *filter(None, [os.environ.get("PYTHONPATH")])]
    budget = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    quiet |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # NVML's, so that its first card is CUDA's
    return order | dict(os.environ) | budget | quiet | {"PYTHONPATH": os.pathsep.join(paths)}


def project_for_others(root: Path) -> dict[str, str]:
    """Environment in which another interpreter finds this project's packages and none of this interpreter's.

    An installed copy lies beside the libraries that the other one must not see, so links to it lie under `root`.
    """
    project = Path(__file__).resolve().parents[2]
    if "site-packages" not in str(project):
        return {}  # `worker_environment` names it already
    links = root.resolve() / "environments" / ".project"
    links.mkdir(parents=True, exist_ok=True)
    for package in ("bench", "backends", "exporters"):
        link = links / package
        if not link.is_symlink() or link.readlink() != project / package:
            aside = links / f".{package}-{os.getpid()}"
            aside.unlink(missing_ok=True)
            aside.symlink_to(project / package)
            aside.replace(link)
    return {"PYTHONPATH": os.pathsep.join([str(links), *filter(None, [os.environ.get("PYTHONPATH")])])}


def compiler_cache(root: Path) -> dict[str, str]:
    """Environment that keeps what torch and TensorRT compile under `root`, the folder of the store."""
    cache = (root / "cache").resolve()
    return {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "BENCH_ENGINE_CACHE": str(cache / "tensorrt")}


def _oom_kill_count() -> int | None:
    """How many processes the kernel has killed for want of memory since it started; None where it does not tell."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when process `parent`, which started it, dies (Linux; prctl(2))."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def python_module(module: str, python: Path | None = None) -> list[str]:
    """Start of a worker's command line, for this interpreter or the one at `python`.

    -P keeps folders of the user's that share a name with ours out of its way.
    """
    return [str(python or sys.executable), "-P", "-m", module]


def volunteer_for_oom_kill() -> None:
    """Where the host's memory runs out, let the kernel take this worker and not the driver or a bystander."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def take_up_work(parent: int) -> None:
    """First thing in every process of the driver: die with `parent` (0: none), and go first where memory ends."""
    if parent:
        die_with_parent(parent)
    volunteer_for_oom_kill()


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Worker's end: answer each request line with what `handle` returns, until the input ends.

    A thread blocked on the input notices the driver's end even while a request is being worked
    on, and ends the process with it; it costs nothing in between.
    """
    with os.fdopen(os.dup(1), "wb", buffering=0) as replies:
        os.dup2(2, 1)
        for request in _requests():
            replies.write(json.dumps(handle(request)).encode() + b"\n")


def _requests() -> Iterator[dict[str, Any]]:
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        with os.fdopen(os.dup(0), "rb") as stream:
            for line in stream:
                lines.put(line)
        os._exit(0)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    while True:
        line = lines.get()
        if line.strip():
            yield json.loads(line)
