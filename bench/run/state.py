"""How whole a run is, in plain words: what is wrong with its file, and how far it came."""

from __future__ import annotations

import shlex

from bench.columns import count
from bench.run.record import Run
from bench.spec import DEFAULT_ARTIFACTS


def of_file(run: Run) -> str:
    """What is wrong with the file of a run, in plain words; "" if it is as it was written."""
    if run.integrity == "altered":
        return (
            "ALTERED: the lines of this file do not match its seal, so it was changed or damaged after it was written. "
            "Trust none of its figures; measure again, or restore the file"
        )
    if run.integrity == "cut":
        return (
            "CUT: this file has no seal. Its run is still going on or was killed, or the end of the file is lost; "
            "records may be missing"
        )
    return ""


def incomplete(run: Run) -> str:
    """How far an unfinished run came, and the command that goes on with it; "" for a complete one."""
    if run.is_complete:
        return ""
    planned, done = len(run.workload.points()) * len(run.candidates), len(run.records)
    came = f"{count(done, 'cell')} so far" if run.workload.is_open_ended else f"{done} of {count(planned, 'cell')}"
    if run.path is None or run.integrity == "altered":
        return f"Incomplete: {came}; measure again with: {run.command}"
    return f"Incomplete: {came}; {going_on(run)} goes on"


def going_on(run: Run) -> str:
    """The command that goes on with a run; it names again the code and interpreters that no file may start."""
    store = run.options.artifacts
    words = ["bench", run.options.command, "--resume", str(run.path or "RUN")]
    words += [] if store == DEFAULT_ARTIFACTS else ["--artifacts", store]
    words += [] if run.options.module is None else ["--module", run.options.module]
    return shlex.join([*words, *(word for python in run.options.python for word in ("--python", python))])
