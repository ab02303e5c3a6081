"""JSON lines between the driver and its workers, on a channel that library prints cannot reach.

A worker keeps the descriptor of its standard output for replies and points descriptor 1 at standard error before
anything else runs. So it can be started by hand and talked to in a terminal.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import queue
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from bench.errors import UserError
from bench.process import offspring

STDERR_LINES = 8
PR_SET_PDEATHSIG = 1
PACKAGES = ("bench", "backends", "exporters")
#: Sent by a process that is asked for long work, at most so many seconds apart.
HEARTBEAT, HEARTBEAT_SECONDS = b"alive", 5.0
#: Long work may take so many times the silence after which a process is taken for hung.
MOST_SILENCES = 4


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

    It lives in a session of its own, so that Ctrl-C reaches the driver alone.
    """

    def __init__(self, command: Sequence[str], threads: int, environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self._buffer = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._final_words: list[str] = []
        self._oom_kills = _oom_kill_count()
        self._mark = uuid.uuid4().hex
        own = dict(environment or {}) | {offspring.MARK: self._mark}
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=worker_environment(threads) | own, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def request(self, message: Mapping[str, Any], timeout_seconds: float) -> dict[str, Any]:
        """Send `message` and wait for its reply without spinning; raises WorkerError."""
        self.send(message)
        return self.receive(timeout_seconds)

    def work(
        self, message: Mapping[str, Any], timeout_seconds: float, most_seconds: float = math.inf
    ) -> dict[str, Any]:
        """The reply to a request that may take long and times nothing, with heartbeats meanwhile; raises WorkerError.

        A process that sends none for `timeout_seconds` is stopped or hangs. One that loops sends them too, so the whole
        takes at most `MOST_SILENCES` times as long, or `most_seconds` if that is less.
        """
        self.send({**message, "heartbeat_seconds": min(HEARTBEAT_SECONDS, timeout_seconds / 4)})
        return self.receive(timeout_seconds, min(MOST_SILENCES * timeout_seconds, most_seconds))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send `message`; a worker that is gone is noticed by `receive`."""
        with contextlib.suppress(BrokenPipeError):
            self._input.write(json.dumps(message).encode() + b"\n")
            self._input.flush()

    def receive(self, timeout_seconds: float, most_seconds: float = math.inf) -> dict[str, Any]:
        """Wait for the next reply, at most `most_seconds` with all heartbeats before it; raises WorkerError on an error
        reply, a death or silence.
        """
        started, line = time.monotonic(), HEARTBEAT
        while line == HEARTBEAT:
            left = started + most_seconds - time.monotonic()
            is_silence = timeout_seconds < left
            late = f"no answer within {timeout_seconds:g} s" if is_silence else f"not done in {most_seconds:g} s"
            line = self._read_line(started, min(timeout_seconds, left), late)
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict) or not reply.keys() & {"ok", "error"}:
            self.kill()
            said = line[:80].decode(errors="replace")
            reason = f"the worker's standard output carried {said!r} before the worker took it over; it was killed"
            raise WorkerError("failed", reason, {"stderr": self.last_words()}, is_gone=True)
        if "error" in reply:
            raise WorkerError(**reply["error"])
        ok: dict[str, Any] = reply["ok"]
        return ok

    def _read_line(self, started: float, timeout_seconds: float, late: str) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.kill()
                    raise self._lost("timeout", f"{late}; the worker was killed", time.monotonic() - started)
                chunk = os.read(self._output.fileno(), 1 << 20)
                if not chunk:
                    raise self._death(time.monotonic() - started)
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self, seconds: float) -> WorkerError:
        code = self._process.wait()
        if code >= 0:
            reason = f"the worker exited with code {code} after {seconds:.1f} s"
            return self._lost("failed", reason, seconds, exit_code=code)
        name, kills = _signal_name(-code), _oom_kill_count()
        if name == "SIGKILL" and kills is not None and self._oom_kills is not None and kills > self._oom_kills:
            reason = "the kernel killed the worker: the host's memory ran out"
            return self._lost("oom", reason, seconds, signal=name)
        return self._lost("failed", f"the worker was killed by {name} after {seconds:.1f} s", seconds, signal=name)

    def _lost(self, status: str, reason: str, seconds: float, **details: Any) -> WorkerError:
        told = {"seconds": round(seconds, 1), "stderr": self.last_words(), **details}
        return WorkerError(status, reason, told, is_gone=True)

    def last_words(self) -> list[str]:
        """Last lines of the worker's standard error."""
        if self._errors.closed:
            return self._final_words
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 8192))
        lines = self._errors.read().decode(errors="replace").splitlines()
        return [line[:300] for line in lines if line.strip()][-STDERR_LINES:]

    def kill(self) -> None:
        """End the worker and every process that it started, now, also those in sessions of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        offspring.kill_marked(self._mark)
        self._final_words = self.last_words()
        for stream in (self._input, self._output, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def close(self) -> None:
        """Let the worker end by itself for a moment, then end it."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self.kill()


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

    Links to an installed copy lie under `root`, apart from the libraries beside it.
    """
    project = Path(__file__).resolve().parents[2]
    if "site-packages" not in str(project):
        return {}  # `worker_environment` names it already
    links = root.resolve() / "environments" / ".project"
    links.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        link = links / package
        if not link.is_symlink() or link.readlink() != project / package:
            aside = links / f".{package}-{os.getpid()}"
            aside.unlink(missing_ok=True)
            aside.symlink_to(project / package)
            aside.replace(link)
    if strangers := [
        link.name for link in links.iterdir() if not link.name.startswith(".") and link.name not in PACKAGES
    ]:
        raise UserError(f"{str(links / min(strangers))!r} would be imported, and bench did not put it there; remove it")
    return {"PYTHONPATH": os.pathsep.join([str(links), *filter(None, [os.environ.get("PYTHONPATH")])])}


def python_module(module: str, python: Path | None = None) -> list[str]:
    """Start of a worker's command line; -P keeps folders of the user's that share a name with ours out of its way."""
    return [str(python or sys.executable), "-P", "-m", module]


def start(
    module: str,
    arguments: Sequence[str],
    threads: int,
    root: Path | None = None,
    python: Path | None = None,
    **environment: str,
) -> Worker:
    """Start `module` as a worker that dies with this process, by another interpreter if `python` is given.

    What torch and TensorRT compile is kept under `root`, the folder of the store.
    """
    if root is not None:
        cache = (root / "cache").resolve()
        environment |= {
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "BENCH_ENGINE_CACHE": str(cache / "tensorrt"),
        }
        environment |= project_for_others(root) if python else {}
    command = [*python_module(module, python), *arguments, "--parent", str(os.getpid())]
    return Worker(command, threads, environment)


def parent() -> int:
    """The process to die with that `start` named to a module without other arguments; 0 if none was."""
    return int(sys.argv[2]) if sys.argv[1:2] == ["--parent"] else 0


def _signal_name(number: int) -> str:
    """`SIGKILL`; `signal 40` for one of the real-time signals, most of which have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kill_count() -> int | None:
    """How many processes the kernel has killed for want of memory since it started; None where it does not tell."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.MULTILINE):
            return int(found[1])
    return None


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when process `parent`, which started it, dies (Linux; prctl(2))."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def answered(
    call: Callable[[], dict[str, Any]], statuses: Mapping[type[Exception], str] = MappingProxyType({})
) -> dict[str, Any]:
    """The reply that `call` gives, or {"error": …} if it raises; `statuses` are of exceptions beside a runtime's."""
    from backends.base import BackendError, OutOfMemoryError, UnsupportedError, runtime_errors

    try:
        with runtime_errors():
            try:
                return {"ok": call()}
            except tuple(statuses) as error:
                status = next(status for kind, status in statuses.items() if isinstance(error, kind))
                return {"error": {"status": status, "reason": str(error)}}
    except OutOfMemoryError as error:
        return {"error": {"status": "oom", "reason": str(error), "details": dict(error.figures)}}
    except BackendError as error:
        status = "unsupported" if isinstance(error, UnsupportedError) else "failed"
        return {"error": {"status": status, "reason": str(error)}}


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]], parent: int) -> None:
    """Worker's end: answer each request line by `handle`, until the input ends or `parent` (0: none) dies.

    It goes first where the host's memory runs out. A thread blocked on the input notices the driver's end even while a
    request is being worked on, and costs nothing in between.
    """
    if parent:
        die_with_parent(parent)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        with os.fdopen(os.dup(0), "rb") as stream:
            for line in stream:
                lines.put(line)
        os._exit(0)

    with os.fdopen(os.dup(1), "wb", buffering=0) as replies:
        os.dup2(2, 1)
        threading.Thread(target=listen, daemon=True).start()
        while True:
            if (line := lines.get()).strip():
                request = json.loads(line)
                with _heartbeats(replies, request.pop("heartbeat_seconds", None)):
                    reply = json.dumps(handle(request))
                replies.write(reply.encode() + b"\n")


@contextlib.contextmanager
def _heartbeats(replies: IO[bytes], seconds: float | None) -> Iterator[None]:
    """Send a heartbeat every so many `seconds`, from a thread; none without `seconds`: nothing runs beside timing."""
    if seconds is None:
        yield
        return
    is_done = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):  # the driver's end is noticed by whoever listens
            while not is_done.wait(seconds):
                replies.write(HEARTBEAT + b"\n")

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
