"""What runs must have in common for their times to be compared, or for one choice among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from bench.machine import same_machine
from bench.run.record import Run

#: Options of every workload that two runs must share if they are of one machine.
OF_ONE_MACHINE = ("device", "threads", "tf32")
#: Distributions whose versions go into a checkpoint's key.
OF_THE_CHECKPOINT = ("torch", "transformers", "runtimebench")
#: Longest value that a message repeats; a CPU's flags are hundreds of words.
LONGEST_SHOWN = 60


def obstacles(runs: Sequence[Run]) -> list[str]:
    """Why `runs` must not be compared, one line a pair of runs; empty if nothing forbids it."""
    found = []
    for one, other in combinations(runs, 2):
        if is_same(one, other):
            found.append(f"{name_of(one)} and {name_of(other)} are the same run")
        elif differing := differences(one, other):
            found.append(f"{name_of(one)} and {name_of(other)} differ in {', '.join(differing)}")
    return found


def is_same(one: Run, other: Run) -> bool:
    """True for two copies of one run."""
    return bool(one.records) and one.started == other.started and one.records == other.records


def differences(one: Run, other: Run, *, is_across_machines: bool = False) -> list[str]:
    """What forbids to compare two runs, e.g. `threads (2 and 4)`; `is_across_machines` lets machines differ."""
    if type(one.workload) is not type(other.workload):
        return [f"workload ({one.workload.name} and {other.workload.name})"]
    found = []
    if not is_across_machines and (facts := same_machine(one.fingerprint, other.fingerprint)):
        shown = (f"{name}{_both(one.fingerprint[name], other.fingerprint[name])}" for name in facts)
        found.append(f"machine ({', '.join(shown)})")
    its_settings = _settings(other, is_across_machines)
    for name, mine in _settings(one, is_across_machines).items():
        if mine != its_settings[name]:
            found.append(f"{name} ({mine} and {its_settings[name]})")
    if weights_of(one) != weights_of(other):
        found.append(f"weights ({weights_of(one)} and {weights_of(other)})")
    elif is_across_machines or not _has_same_libraries(one, other) or one.model.name != other.model.name:
        return found
    elif one.model.checkpoint != other.model.checkpoint:
        found.append(f"weights (checkpoint {one.model.checkpoint} and {other.model.checkpoint})")
    return found


def _settings(run: Run, is_across_machines: bool) -> dict[str, Any]:
    names = (*(() if is_across_machines else OF_ONE_MACHINE), *run.workload.decisive)
    return {"model": run.model.name, "task": run.model.task, **{name: getattr(run.options, name) for name in names}}


def _both(one: Any, other: Any) -> str:
    """`: 2 and 4`, or nothing if the values are too long to be read."""
    is_short = all(isinstance(value, str | int) and len(str(value)) <= LONGEST_SHOWN for value in (one, other))
    return f": {one} and {other}" if is_short else ""


def weights_of(run: Run) -> str:
    """Where the weights came from, without advice and without the way that a revision took."""
    origin = run.model.origin.partition(";")[0]
    revision = re.fullmatch(r"pretrained, .*\(([0-9a-f]{7,40})\)", origin)
    return f"pretrained, revision {revision.group(1)}" if revision else origin


def _has_same_libraries(one: Run, other: Run) -> bool:
    """True if a checkpoint's key does not differ for its libraries' versions, so that only its weights are left."""
    mine, its = one.fingerprint.get("versions", {}), other.fingerprint.get("versions", {})
    return all(name in mine and mine[name] == its.get(name) for name in OF_THE_CHECKPOINT)


def name_of(run: Run) -> str:
    """A run by its file."""
    return repr(str(run.path)) if run.path is not None else f"the run of {run.started}"
