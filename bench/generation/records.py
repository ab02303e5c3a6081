"""A run of `bench generate` in memory, what is computed from it when asked, and its file.

Schema history
1  (0.1.0)  {"kind": "generation"} header with grid, batches, generation, plan, fingerprint, origin, checkpoint, command
            and started; {"kind": "record"} a cell; {"kind": "peaks"}; {"kind": "end"} when all cells have their record.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import statistics
from bench.damage import damage_told
from bench.generation.plan import CACHE, GenerationPlan
from bench.linesfile import read_lines
from bench.machine import conditions
from bench.machine.roofline import Floor, Peaks, floor_ns, is_implausible, share
from bench.records import STATUSES, CellRecord, exit_code_of
from bench.spec import CRITERIA, MODULE, Candidate, Grid, TimingPlan, model_option, python_options, tf32_option

KIND, SCHEMA, WRITER = "generation", 1, "bench generate"


@dataclass(frozen=True)
class GenerationRecord(CellRecord):
    """What became of one contestant at one batch. Times are integer nanoseconds unless the name says otherwise."""

    backend: str
    variant: str
    precision: str
    copy: int
    batch: int
    status: str
    reason: str = ""
    way: str = ""
    """Of `WAYS`: with a cache, or by full passes."""
    rounds: list[list[int]] = field(default_factory=list)
    """Of each whole generation, from the prompt on the device to the last token, by round."""
    first_token_rounds: list[list[int]] = field(default_factory=list)
    """Until the first token was there: the prompt's pass."""
    decode_rounds: list[list[int]] = field(default_factory=list)
    """A token, of those behind the first; empty where only one was generated."""
    unmet: list[str] = field(default_factory=list)
    """Of `CRITERIA`, those that sampling ended without."""
    warmup_ns: list[int] = field(default_factory=list)
    first_call_ns: int | None = None
    """Of the first two steps of all, compilation included."""
    export_seconds: float | None = None
    load_seconds: float | None = None
    tokens: list[list[int]] = field(default_factory=list)
    """What the last timed generation wrote behind each prompt, of a beam the likeliest."""
    parity: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)
    turns: str = "interleaved"
    memory: dict[str, Any] = field(default_factory=dict)
    """Bytes: "loaded", "peak" (of one generation), "cache" (held at its end), and "key_value_bytes_per_token" of one
    sequence, by formula."""
    operations: dict[str, int] = field(default_factory=dict)
    """"flops" of a pass over one token and "weight_bytes" that it reads; empty where they were not counted."""
    conditions: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    repeat: str = ""
    """Command that repeats this cell alone."""
    judged: bool = True
    """False for a backend that does not compute the model (`null`)."""
    environment: str = ""

    @property
    def samples(self) -> list[int]:
        """All timed generations, in order."""
        return [sample for round_ in self.rounds for sample in round_]

    @property
    def host_share(self) -> None:
        """Not taken of a generation."""
        return None


@dataclass
class GenerationRun:
    """All records of one call of `generate`, with the fingerprint of the machine they came from."""

    grid: Grid
    batches: tuple[int, ...]
    generation: GenerationPlan
    plan: TimingPlan
    fingerprint: dict[str, Any]
    origin: str
    checkpoint: str
    command: str
    started: str
    records: list[GenerationRecord] = field(default_factory=list)
    path: Path | None = None
    is_complete: bool = False
    peaks: Peaks | None = None
    parent_cpu_share: float | None = None

    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "grid": self.grid.to_json(),
            "batches": list(self.batches),
            "generation": self.generation.to_json(),
            "plan": asdict(self.plan),
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "checkpoint": self.checkpoint,
            "command": self.command,
            "started": self.started,
        }

    def command_of(self, contestants: Sequence[Candidate], batches: Sequence[int]) -> str:
        """The command line that measures `contestants` at `batches` under the options of this run."""
        grid, plan, generation = self.grid, self.plan, self.generation
        options: dict[str, Any] = {
            **model_option(grid),
            "--backends": ",".join(dict.fromkeys(contestant.label for contestant in contestants)),
            "--batches": ",".join(map(str, batches)),
            "--prompt-length": generation.prompt_length,
            "--new-tokens": generation.new_tokens,
            "--decoding": generation.decoding.option,
        }
        if generation.decoding.kind == "sample":
            options |= {"--top-k": generation.decoding.top_k, "--temperature": generation.decoding.temperature}
        options |= {
            "--device": grid.device,
            "--precisions": ",".join(dict.fromkeys(contestant.precision for contestant in contestants)),
            "--threads": grid.threads,
            **({} if grid.weights == MODULE else {"--weights": grid.weights}),
            "--seed": grid.seed,
            "--rounds": plan.rounds,
            "--max-seconds-per-cell": f"{plan.seconds_per_cell:g}",
            "--target-precision": f"{100 * plan.target_precision:g}%",
            "--timeout": f"{plan.timeout_seconds:g}",
        }
        words = (str(part) for option in options.items() for part in option)
        return shlex.join(["bench", "generate", *words, *python_options(grid, contestants), *tf32_option(grid)])

    def baseline(self, record: GenerationRecord) -> GenerationRecord | None:
        """The first contestant's record at the same batch, which speed-ups are against."""
        first = self.grid.contestants[0]
        return next((r for r in self.records if r.batch == record.batch and r.contestant == first), None)

    def ratio(self, record: GenerationRecord) -> statistics.Ratio | None:
        """Times faster than the first contestant over whole generations, within rounds.

        None unless both are still the same model and plausible, or both compute nothing.
        """
        baseline = self.baseline(record)
        if baseline is None or record.status != "ok" or baseline.status != "ok":
            return None
        both = (baseline, record)
        if any(r.judged for r in both) and not all(r.is_comparable and not self.is_implausible(r) for r in both):
            return None
        if "sequential" in (baseline.turns, record.turns):
            return statistics.ratio_of_runs(baseline.rounds, record.rounds)
        return statistics.ratio_within_rounds(baseline.rounds, record.rounds)

    def token_bytes(self, record: GenerationRecord) -> int | None:
        """Bytes that one decoding step has to read: weights once, and each sequence's keys and values so far.

        Mean over the steps behind the first. None where operations were not counted.
        """
        if not record.operations:
            return None
        held = 0
        if record.way == CACHE:
            mean_length = self.generation.prompt_length + self.generation.new_tokens / 2
            sequences = record.batch * self.generation.decoding.beams
            held = round(record.memory.get("key_value_bytes_per_token", 0) * mean_length * sequences)
        return record.operations["weight_bytes"] + held

    def floor(self, record: GenerationRecord) -> Floor | None:
        """The least time of one decoding step on this machine; None as for `Run.floor`."""
        size = self.token_bytes(record)
        computed_in = self.grid.computed_in(record.precision)
        if size is None or self.peaks is None or self.peaks.is_disturbed(computed_in):
            return None
        rate, bandwidth = self.peaks.flops_bound(computed_in), self.peaks.bandwidth(size)
        if rate is None or bandwidth is None:
            return None
        sequences = record.batch * self.generation.decoding.beams
        return floor_ns(record.operations["flops"] * sequences, size, rate, bandwidth)

    def floor_share(self, record: GenerationRecord) -> float | None:
        """The floor over the median of a decoding step: 1 is as fast as this machine can be."""
        floor, steps = self.floor(record), statistics.pooled(record.decode_rounds)
        return share(floor, statistics.median(steps)) if floor and steps else None

    def is_implausible(self, record: GenerationRecord) -> bool:
        """True for a decoding step below the floor: no correct measurement of that work gives it."""
        floor, steps = self.floor(record), statistics.pooled(record.decode_rounds)
        return floor is not None and bool(steps) and is_implausible(floor, statistics.median(steps))

    def taint(self, record: GenerationRecord) -> list[str]:
        """What disturbed the machine while this cell was timed, one line each."""
        return conditions.taint(record.conditions) if record.conditions else []

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a record, units in the names; None where a cell has no such figure."""
        return [self._row(record) for record in self.records]

    def _row(self, record: GenerationRecord) -> dict[str, Any]:
        names = ("backend", "variant", "precision", "copy", "batch", "status", "reason", "way")
        row: dict[str, Any] = {"model": self.grid.model, "device": self.grid.device}
        row |= {name: getattr(record, name) for name in names}
        row |= {"prompt_length": self.generation.prompt_length, "new_tokens": self.generation.new_tokens}
        row |= {"decoding": self.generation.decoding.option, "parity": record.verdict or None}
        row |= {"first_token_ms": self.first_token_ms(record), "ms_per_token": self.ms_per_token(record)}
        row |= {"tokens_per_second": self.tokens_per_second(record), "total_s": self.total_seconds(record)}
        ratio = self.ratio(record)
        interval = ratio.interval if ratio else None
        row |= {"speedup": ratio.value if ratio else None, "verdict": ratio.verdict if ratio else None}
        row |= {"speedup_low": interval.low if interval else None, "speedup_high": interval.high if interval else None}
        floor = self.floor(record)
        row |= {"floor_ms_per_token": floor.ns / 1e6 if floor else None, "floor_share": self.floor_share(record)}
        row |= {"implausible": self.is_implausible(record), "tainted": bool(self.taint(record))}
        row |= {"tokens_as_eager": self.tokens_as_eager(record)}
        row |= {"cache_bytes": record.memory.get("cache"), "peak_bytes": self.peak_bytes(record)}
        row |= {"export_s": record.export_seconds, "load_s": record.load_seconds, "rounds": len(record.rounds)}
        return row | {"first_call_ms": None if record.first_call_ns is None else record.first_call_ns / 1e6}

    def first_token_ms(self, record: GenerationRecord) -> float | None:
        """Median time to the first token."""
        return _median_ms(record.first_token_rounds)

    def ms_per_token(self, record: GenerationRecord) -> float | None:
        """Median time of a decoding step: one further token of every sequence."""
        return _median_ms(record.decode_rounds)

    def total_seconds(self, record: GenerationRecord) -> float | None:
        """Median time of a whole generation."""
        total = _median_ms(record.rounds)
        return None if total is None else total / 1e3

    def tokens_per_second(self, record: GenerationRecord) -> float | None:
        """New tokens of all prompts over the time of a whole generation; a beam counts once."""
        total = self.total_seconds(record)
        return None if total is None else record.batch * self.generation.new_tokens / total

    def peak_bytes(self, record: GenerationRecord) -> int | None:
        """The most that was held during one generation: resident, or on a GPU taken by the runtime's allocator, since
        replays of CUDA graphs allocate nothing. None where that does not tell."""
        peak: dict[str, int] = record.memory.get("peak", {})
        if self.grid.device == "cuda":
            return peak.get("peak_reserved_bytes")
        return peak.get("peak_process_bytes")

    def tokens_as_eager(self, record: GenerationRecord) -> int | None:
        """How many tokens from the first on are those of eager with its growing cache, at the same precision and batch,
        behind the prompt where they are fewest.

        None without such an eager, and for what computes no model.
        """
        wanted = (Candidate("eager", "default", record.precision), record.batch)
        eager = next((other for other in self.records if (other.contestant, other.batch) == wanted), None)
        if eager is None or not eager.tokens or not record.tokens or not record.judged:
            return None
        return min(_agreement(one, other) for one, other in zip(eager.tokens, record.tokens, strict=True))

    @property
    def exit_code(self) -> int:
        """parity.md rule 10, as for a run of `compare`."""
        return exit_code_of(self.records)


def _agreement(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens from the first on are alike."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((step for step, (a, b) in pairs if a != b), len(one))


def _median_ms(rounds: list[list[int]]) -> float | None:
    samples = statistics.pooled(rounds)
    return statistics.median(samples) / 1e6 if samples else None


def record_line(record: GenerationRecord) -> dict[str, Any]:
    """A record as its line of the file."""
    return {"kind": "record", **asdict(record)}


def read_generation(path: Path) -> GenerationRun:
    """The run in a file; a torn last line is left out. Raises UserError when it is no run of `bench generate`."""
    lines = read_lines(path, KIND, SCHEMA, WRITER)
    header = lines[0]
    with damage_told(path):
        run = GenerationRun(
            grid=Grid.from_json(header["grid"]),
            batches=tuple(header["batches"]),
            generation=GenerationPlan.from_json(header["generation"]),
            plan=TimingPlan(**header["plan"]),
            fingerprint=header["fingerprint"],
            origin=header["origin"],
            checkpoint=header["checkpoint"],
            command=header["command"],
            started=header["started"],
            path=path,
        )
        for line in lines[1:]:
            if line["kind"] == "record":
                record = GenerationRecord(**{key: value for key, value in line.items() if key != "kind"})
                _check(record, run)
                run.records.append(record)
            elif line["kind"] == "peaks":
                run.peaks = Peaks.from_json(line["peaks"])
            elif line["kind"] == "end":
                run.is_complete = True
                run.parent_cpu_share = line.get("parent_cpu_share")
        run.rows()  # every figure once, so that a file that cannot be shown is refused before anything is
    return run


def _check(record: GenerationRecord, run: GenerationRun) -> None:
    """Raise ValueError where a record is none of `run`'s, or holds what no measurement gives."""
    cell = (record.contestant, record.batch)
    if record.contestant not in run.grid.contestants or record.batch not in run.batches:
        raise ValueError(f"a record of {record.contestant.label} at batch {record.batch} is none of the planned cells")
    if any((other.contestant, other.batch) == cell for other in run.records):
        raise ValueError(f"two records of {record.contestant.label} at batch {record.batch}")
    if record.status not in STATUSES:
        raise ValueError(f"unknown status {record.status!r}")
    for rounds in (record.rounds, record.first_token_rounds, record.decode_rounds):
        if not all(isinstance(sample, int) and sample > 0 for round_ in rounds for sample in round_):
            raise ValueError("samples that are no nanoseconds")
    if not set(record.unmet) <= set(CRITERIA):
        raise ValueError("an unknown stopping criterion")
    if record.status == "ok" and not (record.samples and len(record.first_token_rounds) == len(record.rounds)):
        raise ValueError("a measured cell without samples")
    if not all(isinstance(token, int) and token >= 0 for tokens in record.tokens for token in tokens):
        raise ValueError("tokens that are no token ids")
