"""What else went on while a cell was timed, and what on this machine would disturb a measurement.

The driver takes a snapshot before and after each turn, never during one; NVML is asked only for a run on a GPU.
"""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import machine
from bench.machine import gpu, host
from bench.machine.host import ROOT

#: Shares above which a turn is disturbed: of all CPU time or of the worker's time, by others; of all CPU time, by the
#: hypervisor; of the time, by throttling.
MOST_OTHERS = 0.05
STEAL_SHARE = 0.02
THROTTLED_SHARE = 0.05
#: Quiet turns of a cell, or quiet rounds of two, without which nothing is decided.
LEAST_QUIET = 3
#: CPU seconds below which such a share is no evidence: CPU time is counted in ticks of 10 ms, on every CPU.
FLOOR_SECONDS = 0.1
#: The same for throttling of a GPU, whose counters advance in steps of 100 ms.
GPU_FLOOR_SECONDS = 0.2
#: Processes that want to run, for each CPU, above which `disturbances` speaks of load.
LOAD_SHARE = 0.1

#: NVML's reasons that mean a slowdown nobody asked for, with what helps.
COOL = "cool the GPU, or pause before measuring again"
SLOWDOWNS = {
    "sw_power_cap": "raise the cap (nvidia-smi -pl), or lock a clock that it allows (nvidia-smi -lgc)",
    "sw_thermal_slowdown": COOL,
    "hw_thermal_slowdown": COOL,
    "hw_slowdown": "check the GPU's cooling and power supply (nvidia-smi -q -d PERFORMANCE)",
    "hw_power_brake_slowdown": "check the GPU's power supply",
}
DEDICATED = "use a dedicated machine, or a quieter hour"
#: Causes that are shares: how a line begins that says them, and what helps.
CAUSES = (
    ("queue_delay", "its threads waited for CPUs that other work had in {} of the time", "stop it and measure again"),
    ("other_cpu", "{} of all CPU time was taken by other work while this cell was timed", "stop it and measure again"),
    ("steal", "{} of all CPU time was taken by the hypervisor for other machines", DEDICATED),
    ("heat", "the CPU slowed down for heat while this cell was timed", "cool it, or use fewer --threads"),
    ("quota", "the CPU quota stopped the work in {} of its periods", "lower --threads or raise it"),
)  # fmt: skip


def _reasons(lists: Iterable[list[str]]) -> list[str]:
    return sorted({reason for names in lists for reason in names})


#: What a cell's conditions say of the GPU: from which fact of its turns, and how it is taken over them.
OF_THE_GPU: dict[str, tuple[str, Callable[[Iterable[Any]], Any]]] = {
    "min_sm_clock_mhz": ("sm_clock_mhz", min),
    "min_memory_clock_mhz": ("memory_clock_mhz", min),
    "max_temperature_celsius": ("temperature_celsius", max),
    "max_power_watts": ("power_watts", max),
    "throttle_reasons": ("throttle_reasons", _reasons),
    "power_throttled_seconds": ("power_throttled_ns", lambda ns: round(sum(ns) / 1e9, 3)),
    "thermal_throttled_seconds": ("thermal_throttled_ns", lambda ns: round(sum(ns) / 1e9, 3)),
    "other_processes": ("other_processes", max),
}


@dataclass(frozen=True)
class Snapshot:
    """The machine at a moment; every count runs since the system's start."""

    monotonic_ns: int
    driver_cpu_seconds: float
    """CPU time of the process that asks."""
    cpu: host.CpuSeconds
    """Of the whole machine."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """`thermal_events`, `quota_periods` and `throttled_periods`, each if the system counts it."""
    gpu: gpu.State | None = None


def snapshot(device: str, own_pids: Collection[int] = (), root: Path = ROOT) -> Snapshot:
    """The machine now. `own_pids` are the loaded workers, which a container's NVML may not tell from others."""
    events, periods = host.thermal_events(root), host.quota_periods(root)
    counts = {} if events is None else {"thermal_events": events}
    counts |= dict(zip(("quota_periods", "throttled_periods"), periods or (), strict=False))
    on_gpu = gpu.state(own_pids) if device == "cuda" else None
    return Snapshot(time.monotonic_ns(), time.process_time(), host.cpu_seconds(), counts, on_gpu)


def between(
    before: Snapshot, after: Snapshot, own_cpu_seconds: float, queue_delay_seconds: float | None = None
) -> dict[str, Any]:
    """What went on between two snapshots; the timed worker used `own_cpu_seconds`, and its threads were ready and
    waited for a CPU for `queue_delay_seconds` together, if the system counts that.

    `other_cpu_seconds` is signed: ticks err either way, which evens out over a cell's turns.
    """
    own = own_cpu_seconds + after.driver_cpu_seconds - before.driver_cpu_seconds
    found: dict[str, Any] = {
        "wall_seconds": (after.monotonic_ns - before.monotonic_ns) / 1e9,
        "queue_delay_seconds": queue_delay_seconds,
        "cpu_seconds": after.cpu.whole - before.cpu.whole,
        "other_cpu_seconds": after.cpu.busy - before.cpu.busy - own,
        "steal_seconds": after.cpu.steal - before.cpu.steal,
    }
    for name in ("thermal_events", "quota_periods", "throttled_periods"):
        found[name] = _grown(before.counts.get(name), after.counts.get(name))
    if (one := before.gpu) is not None and (other := after.gpu) is not None:
        # A GPU at rest runs at a low clock, so what it did in the turn shows at the turn's end alone.
        found["gpu"] = vars(other) | {
            "power_throttled_ns": _grown(one.power_throttled_ns, other.power_throttled_ns),
            "thermal_throttled_ns": _grown(one.thermal_throttled_ns, other.thermal_throttled_ns),
            "other_processes": _known(max, (one.other_processes, other.other_processes)),
        }
    return found


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _known(aggregate: Callable[[Iterable[Any]], Any], values: Iterable[Any]) -> Any:
    """`aggregate` of those values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return aggregate(known) if known else None


class Source:
    """Where a run's conditions come from: this machine. Tests put another in its place."""

    def snapshot(self, device: str, own_pids: Collection[int] = ()) -> Snapshot:
        """The machine now; see `snapshot`."""
        return snapshot(device, own_pids)

    def between(
        self,
        before: Snapshot,
        after: Snapshot,
        own_cpu_seconds: float,
        queue_delay_seconds: float | None = None,
    ) -> dict[str, Any]:
        """What went on between two snapshots; see `between`."""
        return between(before, after, own_cpu_seconds, queue_delay_seconds)

    def pause(self, seconds: float) -> None:
        """Let other work go on for a while."""
        time.sleep(seconds)


# Judging turns.


def causes(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What disturbed each turn of one cell, by its `between`: cause -> share of CPU time, of the time, or of periods,
    or 1; {} for a quiet turn.

    What a kernel counts in ticks is summed over neighbouring turns until it is evidence. A turn without conditions is
    judged with the one before it: older files have those of a whole cell in its first turn.
    """
    covers = [index for index, turn in enumerate(turns) if turn]
    watched = [turns[index] for index in covers]
    found: list[dict[str, float]] = [{} for _ in watched]
    for cause, shares, limit in _shares(watched):
        for of_turn, share in zip(found, shares, strict=True):
            if share is not None and share > limit:
                of_turn[cause] = min(share, 1.0)
    for of_turn, turn in zip(found, watched, strict=True):
        if turn.get("thermal_events"):
            of_turn["heat"] = 1.0
        on_gpu = turn.get("gpu") or {}
        of_turn |= dict.fromkeys((one for one in on_gpu.get("throttle_reasons") or () if one in SLOWDOWNS), 1.0)
        if on_gpu.get("other_processes"):
            of_turn["gpu_processes"] = 1.0
    places = [bisect.bisect_right(covers, index) - 1 for index in range(len(turns))]
    return [dict(found[place]) if place >= 0 else {} for place in places]


def _shares(turns: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Sequence[float | None], float]]:
    """Each cause that is a share: its name, the share of each turn (None: no evidence) and the most that is quiet."""
    cpu, wall = ([turn.get(f"{name}_seconds") or 0.0 for turn in turns] for name in ("cpu", "wall"))
    has_delay = [turn.get("queue_delay_seconds") is not None for turn in turns]
    yield "queue_delay", [_queue_delay_share(turn) for turn in turns], MOST_OTHERS
    by_ticks = [
        0.0 if told else turn.get("other_cpu_seconds") or 0.0 for told, turn in zip(has_delay, turns, strict=True)
    ]
    yield "other_cpu", _evident(by_ticks, cpu, FLOOR_SECONDS), MOST_OTHERS
    yield "steal", _evident([turn.get("steal_seconds") or 0.0 for turn in turns], cpu, FLOOR_SECONDS), STEAL_SHARE
    yield "quota", [_share(turn.get("throttled_periods"), turn.get("quota_periods")) for turn in turns], THROTTLED_SHARE
    # A slowdown that ends with the turn's last call is not seen afterwards, but counted.
    for name, reason in (("power", "sw_power_cap"), ("thermal", "sw_thermal_slowdown")):
        slowed = [((turn.get("gpu") or {}).get(f"{name}_throttled_ns") or 0) / 1e9 for turn in turns]
        yield reason, _evident(slowed, wall, GPU_FLOOR_SECONDS), THROTTLED_SHARE


def _queue_delay_share(turn: Mapping[str, Any]) -> float | None:
    """Seconds that the worker's threads, together, were ready and another had the CPU, a second of wall time."""
    delay, wall = turn.get("queue_delay_seconds"), turn.get("wall_seconds")
    return None if delay is None or not wall else delay / wall


def _evident(parts: Sequence[float], wholes: Sequence[float], floor: float) -> list[float | None]:
    """Share of each part in its whole. Parts up to `floor` are summed with the next such ones until the sum is above
    it, and have one share; None as long as it is not.
    """
    found: list[float | None] = [
        part / whole if part > floor and whole else None for part, whole in zip(parts, wholes, strict=True)
    ]
    groups: list[list[int]] = [[]]
    small = [index for index, part in enumerate(parts) if part <= floor]
    for index in small:
        groups[-1].append(index)
        if sum(parts[one] for one in groups[-1]) > floor:
            groups.append([])
    tail = groups.pop()
    if groups:
        groups[-1] += tail
    for group in groups:
        share = _share(sum(parts[one] for one in group), sum(wholes[one] for one in group))
        for index in group:
            found[index] = share
    return found


def quiet(turns: Sequence[Mapping[str, Any]]) -> tuple[bool, ...]:
    """Whether nothing disturbed each turn of one cell, by their `between`: the rounds that may decide.

    A card at its own power cap is slowed down by the work that is timed, as it will be in use: a warning, and no reason
    to decide nothing.
    """
    return tuple(not found.keys() - {"sw_power_cap"} for found in causes(turns))


def summary(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What went on in all turns of one cell, from their `between`; {} without any. Shares lie within 0 and 1.

    "disturbed_by" has each cause with its mean share over the turns that it disturbed.
    """
    watched = [turn for turn in turns if turn]
    if not watched:
        return {}
    names = ("wall", "cpu", "other_cpu", "steal")
    wall, cpu, other, steal = (_known(sum, (turn[f"{name}_seconds"] for turn in watched)) for name in names)
    events, periods, throttled = (
        _known(sum, (turn[name] for turn in watched))
        for name in ("thermal_events", "quota_periods", "throttled_periods")
    )
    delay = _known(sum, (turn.get("queue_delay_seconds") for turn in watched))  # older files have none
    judged = causes(turns)
    shares: dict[str, list[float]] = {}
    for of_turn in judged:
        for cause, share in of_turn.items():
            shares.setdefault(cause, []).append(share)
    found = {
        "turns": len(turns),
        "disturbed_turns": sum(map(bool, judged)),
        "disturbed_by": {cause: round(fmean(of_cause), 4) for cause, of_cause in shares.items()},
        "wall_seconds": round(wall, 3),
        "queue_delay_seconds": None if delay is None else round(delay, 6),
        "other_cpu_seconds": None if other is None else round(max(other, 0.0), 3),
        "other_cpu_share": _share(other, cpu),
        "steal_seconds": None if steal is None else round(max(steal, 0.0), 3),
        "steal_share": _share(steal, cpu),
        "thermal_events": events,
        "quota_throttled_share": _share(throttled, periods),
    }
    if seen := [turn["gpu"] for turn in watched if "gpu" in turn]:
        found["gpu"] = {name: _known(over, (turn[fact] for turn in seen)) for name, (fact, over) in OF_THE_GPU.items()}
    return found


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or whole is None:
        return None
    return round(min(max(part / whole, 0.0), 1.0), 4) if whole > 0 else 0.0


def disturbed_by(conditions: Mapping[str, Any]) -> list[str]:
    """What disturbed a cell, from its `summary`: one line each, with the cause and what helps; [] if fewer than half of
    its turns were disturbed and `LEAST_QUIET` others were not.
    """
    disturbed = conditions.get("disturbed_turns", 0)
    quiet_turns = conditions.get("turns", 0) - disturbed
    if not disturbed or (quiet_turns >= LEAST_QUIET and quiet_turns > disturbed):
        return []
    shares = conditions["disturbed_by"]
    found = [f"{text.format(_bucket(shares[cause]))}; {remedy}" for cause, text, remedy in CAUSES if cause in shares]
    found += [
        f"the GPU was slowed down ({reason}); {remedy}" for reason, remedy in SLOWDOWNS.items() if reason in shares
    ]
    if "gpu_processes" in shares:
        found.append(f"{_others(conditions['gpu']['other_processes'])} on the GPU; end them (nvidia-smi lists them)")
    return found


def _others(count: int) -> str:
    return "another process computes" if count == 1 else f"{count} other processes compute"


def _bucket(share: float) -> str:
    """A share in words that are alike for similar cells, so that reports can group them."""
    return next((f"over {limit:.0%}" for limit in (0.5, 0.2, 0.1, 0.05) if share > limit), f"over {STEAL_SHARE:.0%}")


@dataclass(frozen=True)
class Disturbance:
    """Something about this machine that makes timings vary or differ from another's, and how to stop it."""

    what: str
    remedy: str


def disturbances(device: str, root: Path = ROOT) -> list[Disturbance]:
    """What on this machine, as it is set up now, disturbs timings on `device`; asked outside of any measurement."""
    found = [*_of_the_clock(root), *_of_the_cpus(root), *(_of_the_gpu() if device == "cuda" else ())]
    return [Disturbance(what, remedy) for what, remedy in found]


def _of_the_clock(root: Path) -> Iterator[tuple[str, str]]:
    governor, virtual, boost = host.governor(root), host.hypervisor(root), host.boost_switch(root)
    if governor is None and virtual:
        what = f"the CPU's governor and clock are hidden by the hypervisor ({virtual})"
        yield what, "compare only within a run, or use a machine of its own for figures to publish"
    elif governor is None:
        yield "the CPU's governor is unknown (no cpufreq in /sys)", "fix the clock in the firmware's setup"
    elif governor != "performance":
        remedy = "sudo cpupower frequency-set -g performance"
        yield f"the CPU's governor is {governor}: the clock follows the load", remedy
    if boost and boost[1]:
        off = "1" if boost[0].endswith("no_turbo") else "0"
        what = "the CPU's boost is on: the clock varies with heat and with the number of busy cores"
        yield what, f"echo {off} | sudo tee /{boost[0]}"


def _of_the_cpus(root: Path) -> Iterator[tuple[str, str]]:
    quota, cpus, load = host.cpu_quota(root), machine.usable_cpus(), os.getloadavg()[0]
    if host.smt_is_on(root):
        remedy = "give --threads the number of cores, or echo off | sudo tee /sys/devices/system/cpu/smt/control"
        yield "SMT is on: two threads may share one core", remedy
    if quota is not None and quota < cpus:
        what = f"the CPU quota, {quota:g} CPUs, is smaller than the {cpus} CPUs that this process may use"
        yield what, f"use --threads {max(1, int(quota))}, or raise the container's quota"
    if load > LOAD_SHARE * cpus:
        yield f"the load of the last minute is {load:g} on {cpus} CPUs", "stop other work (top shows it)"
    if swapped := host.swap_used_bytes(root):
        what = f"{swapped / 2**20:.0f} MiB of memory are swapped out"
        yield what, "free some memory, then sudo swapoff -a && sudo swapon -a"
    spent = host.cpu_seconds()
    share = _share(spent.steal, spent.whole) or 0.0
    if share > STEAL_SHARE and spent.steal > FLOOR_SECONDS:
        what = f"the hypervisor has given {share:.0%} of this machine's CPU time to others since it started"
        yield what, "use a dedicated machine, or a quieter hour"


def _of_the_gpu() -> Iterator[tuple[str, str]]:
    cards = machine.gpus()
    if len({card["name"] for card in cards}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        what = "the GPUs differ, and CUDA may number them in another order than NVML does"
        yield what, "export CUDA_DEVICE_ORDER=PCI_BUS_ID"
    for card in cards[:1]:  # a worker uses the first one
        if card["other_processes"]:
            yield f"{_others(card['other_processes'])} on the GPU", "end them (nvidia-smi lists them)"
        if card["is_persistent"] is False:
            yield "the GPU's persistence mode is off: it may reset between cells", "sudo nvidia-smi -pm 1"
        cap, default = card["power_cap_watts"], card["default_power_cap_watts"]
        if cap is not None and default is not None and cap < default:
            what = f"the GPU's power cap is {cap:g} W, below its default of {default:g} W"
            yield what, f"sudo nvidia-smi -pl {default:g}"
        if card["is_mig"]:
            what = "the GPU is split (MIG): the slices share its clock and power"
            yield what, "leave the other slices idle, or sudo nvidia-smi -mig 0"
        for reason in sorted(set(card["throttle_reasons"] or ()) & set(SLOWDOWNS)):
            yield f"the GPU is slowed down now ({reason})", SLOWDOWNS[reason]
