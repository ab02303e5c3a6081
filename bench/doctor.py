"""One machine examined: what is installed, what would disturb a measurement, its peaks, its noise, bench's own cost.

Nothing here prints, and no setting of the system is changed. The noise floor comes from an A/A run, eager against a
second copy of itself (measurement.md, rule 19): all that differs between the two is noise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, options, statistics
from bench.errors import BenchError, Say, UserError
from bench.machine import conditions
from bench.machine.conditions import Disturbance
from bench.machine.otherwork import other_work
from bench.machine.roofline import Peaks
from bench.process import peaks
from bench.process.installed import Part, backend_parts, cuda_part, package_parts
from bench.run import pairs
from bench.run.experiment import leaves_translated, measure
from bench.run.listener import Listener
from bench.run.record import Record, Run
from bench.spec import DEFAULT_ARTIFACTS, PRECISIONS
from bench.statistics import Ratio
from bench.workloads.forward import Forward, ForwardOptions
from exporters import sources
from exporters.store import ArtifactStore

DEFAULT_MODEL = "bert-tiny"
#: The twins of the A/A run; speed-ups are against the first.
TWINS = ("eager", "eager@2")
TWINS_BATCHES = (1, 8)
#: In tokens; a model with fewer positions gets those lengths that it has, or all of its positions.
TWINS_LENGTHS = (16, 128)
TIMEOUT_SECONDS = 300.0
#: Turns as `bench compare` takes them, but a fixed number of them however wide the intervals, to end within a minute.
OF_TWINS = {"backends": TWINS, "batches": TWINS_BATCHES, "rounds": 15, "target_precision": 0.99}
OF_NULL = {
    "model": DEFAULT_MODEL, "weights": "random", "device": "cpu", "backends": "null:instant", "batches": 1,
    "lengths": 1, "rounds": 5, "max_seconds_per_cell": 0.5,
}  # fmt: skip
#: Noise floor above which a run seldom tells runtimes apart, as these often differ by less.
LARGE_FLOOR = 0.1


@dataclass(frozen=True)
class Twins:
    """A backend against a second copy of itself at one shape."""

    batch: int
    length: int
    median_ns: float
    """Of the first copy."""
    spread: float
    """The larger interquartile range of the two, as a share of its median."""
    ratio: Ratio
    disturbances: tuple[str, ...] = ()
    """What disturbed the machine meanwhile."""

    @property
    def shape(self) -> str:
        """`1×128`."""
        return f"{self.batch}×{self.length}"

    @property
    def bound(self) -> float:
        """Largest |ratio - 1| that the ratio's interval allows."""
        interval = self.ratio.interval
        ends = (self.ratio.value,) if interval is None else (interval.low, interval.high)
        return max(abs(end - 1) for end in ends)

    @property
    def is_tie(self) -> bool:
        """True if bench finds no difference between a thing and itself, as it must."""
        return self.ratio.verdict == "tie"


@dataclass(frozen=True)
class Noise:
    """What an A/A run says of verdicts on this machine now."""

    model: str
    twins: tuple[Twins, ...]

    @property
    def floor(self) -> float:
        """Largest `bound` seen: a difference between two runtimes below this share may be noise alone."""
        return max(twin.bound for twin in self.twins)

    @property
    def least_difference(self) -> float:
        """Smallest difference to be believed, as a share: the floor, or the margin that is a tie by rule."""
        return max(self.floor, statistics.TIE_MARGIN)

    @property
    def false_verdicts(self) -> tuple[Twins, ...]:
        """Shapes at which a backend was called faster or slower than itself."""
        return tuple(twin for twin in self.twins if not twin.is_tie)

    def to_json(self) -> dict[str, Any]:
        """As JSON types, with the computed verdicts."""
        computed = [{"verdict": one.ratio.verdict, "bound": one.bound, "is_tie": one.is_tie} for one in self.twins]
        return {
            "model": self.model,
            "backends": list(TWINS),
            "twins": [asdict(twin) | found for twin, found in zip(self.twins, computed, strict=True)],
            "floor": self.floor,
            "least_difference": self.least_difference,
            "is_fit": not self.false_verdicts,
        }


@dataclass(frozen=True)
class Overhead:
    """What the harness itself costs."""

    call_ns: float
    """Median of `null:instant`: a call of which nothing but harness is left."""
    parent_cpu_share: float | None
    """CPU time of the parent while workers were timing, divided by that wall time."""


@dataclass(frozen=True)
class Unmeasured:
    """Something that could not be looked at, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """All that was found out about this machine."""

    device: str
    threads: int
    model: str
    is_quick: bool
    """True if peaks and noise were left out, as asked."""
    started: str
    """UTC, ISO 8601."""
    machine: Mapping[str, Any]
    """The fingerprint."""
    free_memory_bytes: int
    free_disk_bytes: int
    """Where artifacts are kept."""
    parts: tuple[Part, ...]
    disturbances: tuple[Disturbance, ...]
    peaks: Peaks | None
    noise: Noise | None
    overhead: Overhead | None
    unmeasured: tuple[Unmeasured, ...]

    @property
    def lacking(self) -> tuple[Part, ...]:
        """Parts of which something is missing."""
        return tuple(part for part in self.parts if not part.is_ready)

    @property
    def exit_code(self) -> int:
        """1 if something could not be measured, else 0: what is missing or disturbs is a finding."""
        return 1 if self.unmeasured else 0

    def to_json(self) -> dict[str, Any]:
        """As JSON types, with the computed verdicts."""
        return asdict(self) | {
            "parts": [asdict(part) | {"is_ready": part.is_ready} for part in self.parts],
            "peaks": self.peaks and self.peaks.to_json(),
            "noise": self.noise and self.noise.to_json(),
            "exit_code": self.exit_code,
        }


def examine(
    *,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    threads: int | None = None,
    artifacts: str | Path = DEFAULT_ARTIFACTS,
    is_quick: bool = False,
    say: Say = lambda line: None,
) -> Findings:
    """Look at this machine, and measure its peaks, its noise and bench's overhead; `is_quick` leaves out the first two.

    Leaves nothing behind but artifacts and peaks under `artifacts`. What cannot be measured is in `unmeasured`.
    Raises UserError for wrong input.
    """
    settled = machine.settle_device(options.device(device, "--device"))
    kind = settled.partition(":")[0]
    budget = machine.thread_budget(threads)
    root = Path(artifacts)
    with leaves_translated():
        lengths = _lengths(sources.resolve(model).positions)
        if not is_quick:
            ArtifactStore(root).prepare()
    # What else runs comes first, since all that follows keeps the machine busy itself.
    say("looking at what is installed and what else runs")
    fingerprint = machine.fingerprint()
    disturbances = (*conditions.disturbances(kind), *other_work(fingerprint.get("busy_share") or 0.0))
    parts = (cuda_part(fingerprint["gpus"]), *backend_parts(kind, root), *package_parts())
    started = datetime.now(UTC).isoformat(timespec="seconds")
    measuring = _Measuring(settled, budget, root, say)
    limits = peaks.known(root, kind, budget) if is_quick else measuring.measure_peaks(parts)
    with tempfile.TemporaryDirectory(prefix="bench-doctor-") as folder:
        noise = None if is_quick else measuring.measure_noise(model, lengths, Path(folder))
        overhead = measuring.measure_overhead(Path(folder))
    resolved = root.resolve()
    free_disk = shutil.disk_usage(next(path for path in (resolved, *resolved.parents) if path.exists())).free
    return Findings(
        settled, budget, model, is_quick, started, fingerprint, machine.available_memory_bytes(), free_disk, parts,
        disturbances, limits, noise, overhead, tuple(measuring.unmeasured),
    )  # fmt: skip


def _lengths(positions: int | None) -> tuple[int, ...]:
    if positions is None:
        return TWINS_LENGTHS
    return tuple(length for length in TWINS_LENGTHS if length <= positions) or (positions,)


class _Measuring:
    """What can fail on the way, and is noted then."""

    def __init__(self, device: str, threads: int, root: Path, say: Say) -> None:
        self.device, self.threads, self.root, self.say = device, threads, root, say
        self.unmeasured: list[Unmeasured] = []
        self.parent_cpu_shares: list[float] = []

    def measure_peaks(self, parts: Sequence[Part]) -> Peaks | None:
        """The machine's peaks at every precision that some backend has here; what is known if they fail."""
        kind = self.device.partition(":")[0]
        wanted = [one for one in PRECISIONS if any(one in part.precisions for part in parts)]
        try:
            found = peaks.measure(self.root, kind, wanted, self.threads, TIMEOUT_SECONDS, self.say)
        except BenchError as error:
            self._note("peaks", str(error))
            return peaks.known(self.root, kind, self.threads)
        for precision in wanted:
            if precision in found.unmeasured:
                self._note(f"the peak at {precision}", found.unmeasured[precision])
        return found

    def measure_noise(self, model: str, lengths: tuple[int, ...], folder: Path) -> Noise | None:
        """An A/A run, whose file goes to `folder`; None if no shape gave a ratio."""
        shapes = [f"{batch}×{length}" for batch in TWINS_BATCHES for length in lengths]
        self.say(f"timing {TWINS[0]} against itself: {model} at {', '.join(shapes)}")
        given = {"model": model, "device": self.device, "lengths": lengths, **OF_TWINS}
        try:
            run = self._measured(given, folder / "twins.jsonl", self.root)
        except UserError:
            raise
        except BenchError as error:
            self._note("the noise floor", str(error))
            return None
        found, reasons = twins_of(run)
        for shape, reason in reasons.items():
            self._note(f"the noise at {shape}", reason)
        return Noise(model, found) if found else None

    def measure_overhead(self, folder: Path) -> Overhead | None:
        """What the harness costs a call, with its store and its file in `folder`."""
        self.say("timing the harness itself")
        try:
            (record,) = self._measured(OF_NULL, folder / "null.jsonl", folder).records
            if record.status != "ok":
                raise BenchError(f"{record.status}: {record.reason}")
        except BenchError as error:
            self._note("the overhead of the harness", str(error))
            return None
        return Overhead(statistics.median(record.samples), max(self.parent_cpu_shares, default=None))

    def _measured(self, given: Mapping[str, Any], output: Path, artifacts: Path) -> Run:
        settings = {"threads": self.threads, "timeout": TIMEOUT_SECONDS, "output": output, "artifacts": artifacts}
        told = Listener(say=self.say, record=self._progress) if artifacts == self.root else None
        run = measure(Forward, ForwardOptions.parsed({**given, **settings}), told)
        if (share := run.notes.get("parent_cpu_share")) is not None:
            self.parent_cpu_shares.append(share)
        return run

    def _progress(self, run: Run, record: Record) -> None:
        if record.candidate == run.candidates[-1]:
            self.say(f"{record.point} timed")

    def _note(self, what: str, reason: str) -> None:
        self.unmeasured.append(Unmeasured(what, reason))


def twins_of(run: Run) -> tuple[tuple[Twins, ...], dict[str, str]]:
    """Each shape of an A/A run with its ratio; and, by shape, why there is none."""
    first, second = run.candidates
    found, reasons = [], {}
    for point in run.workload.points():
        pair = [record for one in (first, second) if (record := run.record(point, one)) is not None]
        if not all(record.is_interleaved for record in pair):
            reasons[str(point)] = "memory did not hold both copies, so they could not take turns; free some"
        elif len(pair) == 2 and (ratio := run.ratio(pair[1])) is not None:
            disturbances = dict.fromkeys(line for record in pair for line in run.disturbances(record))
            median_ns = statistics.median(pair[0].samples)
            spread = max(statistics.spread(record.samples) for record in pair)
            found.append(Twins(point.batch, point.length, median_ns, spread, ratio, tuple(disturbances)))
        else:
            whys = [*filter(None, (_why_none(run, record) for record in pair))]
            reasons[str(point)] = "; ".join(whys or ([pairs.why_undecided(*pair)] if len(pair) == 2 else []))
    return tuple(found), reasons


def _why_none(run: Run, record: Record) -> str:
    """Why `record` can have no ratio; "" if the other twin is the reason."""
    name = record.candidate.label
    if record.status != "ok":
        return f"{name}: {record.status}: {record.reason}"
    if run.is_implausible(record):
        return f"{name}: a median below what this machine's peaks allow"
    if not record.is_comparable:
        return f"{name}: parity is {record.verdict}: {record.parity.get('reason', '')}"
    return ""
