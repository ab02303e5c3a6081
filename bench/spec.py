"""What to measure: plain frozen dataclasses, and every check of the user's input."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from backends.base import Backend

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_ARTIFACTS = "artifacts"
#: `Grid.weights` of the user's own module.
MODULE = "module"
DEVICES = ("auto", "cpu", "cuda")
DEFAULT_BATCHES = (1, 8)
#: `Grid.batches`, and what a user writes in place of sizes, where batches double as long as that gains.
AUTO = "auto"
DEFAULT_LENGTHS = (16, 128, 512)
MOST_ROUNDS = 10_000
#: Fewest rounds from which an interval of a ratio is worth having (Student's t over 5).
LEAST_ROUNDS = 5
TURNS_OF_A_CEILING = 50
#: What sampling stops by; a record names those that it ended without.
CRITERIA = ("warm-up", "rounds", "precision")
TARGET_PRECISION = {"cpu": 0.02, "cuda": 0.01}
BOUNDARIES = ("device", "host")
MOST_COPIES = 99
DAY_SECONDS = 86_400.0
#: Batches and lengths above this are mistakes.
LARGEST_SIZE = 10_000_000
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, order=True)
class Candidate:
    """One backend, variant and precision: what one worker process loads and what one row of a table is."""

    backend: str
    variant: str
    precision: str
    copy: int = 1
    """Above 1 for a further worker of the same, written `backend@2`: what differs between the two is noise."""
    environment: str = ""
    """Name of the environment that it runs in, written `backend@old`; "" for the backend's own."""

    @property
    def label(self) -> str:
        """`backend`, `backend:variant`, then `@environment` and `@copy` where it has them, as the user writes it."""
        name = self.backend if self.variant == "default" else f"{self.backend}:{self.variant}"
        name += f"@{self.environment}" if self.environment else ""
        return name if self.copy == 1 else f"{name}@{self.copy}"

    @property
    def place(self) -> str:
        """`backend`, or `backend@environment`: what an interpreter is given to."""
        return f"{self.backend}@{self.environment}" if self.environment else self.backend


@dataclass(frozen=True, order=True)
class Shape:
    """Batch size and sequence length in tokens."""

    batch: int
    length: int

    def __str__(self) -> str:
        return f"{self.batch}×{self.length}"


@dataclass(frozen=True)
class TimingPlan:
    """How each cell is timed: warm-up, turns, and when to stop."""

    rounds: int = 10
    """Rounds that every cell gets, as far as `seconds_per_cell` lets it; more follow until it is precise."""
    seconds_per_cell: float = 5.0
    """Ceiling of each contestant's turns at one shape, in seconds; `least_rounds` are taken whatever they last."""
    warmup_calls: int = 1
    warmup_seconds: float = 0.3
    warmup_most_seconds: float = 3.0
    """Ceiling of a warm-up that does not become stable."""
    samples_per_turn: int = 1000
    timeout_seconds: float = 900.0
    """A worker that answers nothing for this long is taken for hung."""
    target_precision: float = 0.02
    """Half-width of the median's interval, as a share of the median, at which sampling may stop."""
    naive_timer: bool = False
    """Also time calls without any synchronisation, to explain figures that were taken so."""

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise UserError(f"--rounds {self.rounds} is not within 1 and {MOST_ROUNDS}; use 10 or more")
        if not 0 < self.target_precision < 1:
            raise UserError(
                f"--target-precision {100 * self.target_precision:g}% is not above 0 and below 100%; use e.g. 2%"
            )
        if not 0 < self.seconds_per_cell <= DAY_SECONDS:
            raise UserError(
                f"--max-seconds-per-cell {self.seconds_per_cell} is not above 0 and at most a day; use 5 or more"
            )
        check_timeout(self.timeout_seconds)

    @property
    def least_rounds(self) -> int:
        """Rounds that every cell gets, however slow it is."""
        return min(self.rounds, LEAST_ROUNDS)

    @property
    def turn_seconds(self) -> float:
        """What one turn's samples take, where a call is shorter: a 50th of the ceiling, or less for many rounds."""
        return self.seconds_per_cell / max(TURNS_OF_A_CEILING, self.rounds)


@dataclass(frozen=True)
class Grid:
    """All that one run measures: every contestant at every shape, from one set of weights."""

    model: str
    contestants: tuple[Candidate, ...]
    shapes: tuple[Shape, ...]
    device: str
    threads: int
    weights: str = "auto"
    task: str = "base"
    seed: int = 0
    boundary: str = "device"
    """"device": inputs and outputs stay on the device; "host": host arrays in and out, copies timed."""
    batches: str = ""
    """"auto" where `shapes` hold every batch that may be taken, and each length ends by its throughput."""
    pythons: tuple[tuple[str, str], ...] = ()
    """Interpreters of the user's own, as (`Candidate.place`, path); every other is found in the store."""
    tf32: bool = False
    """True where the contestants' fp32 products may round their inputs to TF32; references never do."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Grid:
        """The grid that `to_json` wrote."""
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["contestants"] = tuple(Candidate(**entry) for entry in data["contestants"])
        values["shapes"] = tuple(Shape(**entry) for entry in data["shapes"])
        values["pythons"] = tuple((str(place), str(path)) for place, path in data.get("pythons", ()))
        if not values["contestants"] or not values["shapes"]:
            raise ValueError("a grid without contestants or shapes")
        if not all(isinstance(n, int) and n > 0 for shape in values["shapes"] for n in (shape.batch, shape.length)):
            raise ValueError("a batch or length that is no positive integer")
        return cls(**values)

    def computed_in(self, precision: str) -> str:
        """Arithmetic that a contestant's products may be done in: "tf32" for fp32 under `tf32`, else its precision."""
        return "tf32" if self.tf32 and precision == "fp32" else precision

    @property
    def output(self) -> str:
        """What the model gives, in words."""
        if self.weights == MODULE:
            return "a module's logits" if self.task == "lm" else "a module's outputs"
        return "last hidden state" if self.task == "base" else "logits"

    def cells(self) -> Iterator[tuple[Shape, Candidate]]:
        """Every planned cell, shapes outermost."""
        for shape in self.shapes:
            for contestant in self.contestants:
                yield shape, contestant


def parse_sizes(text: str | Iterable[int], option: str) -> tuple[int, ...]:
    """`"1,8,64"` or integers as sorted distinct positive integers; raises UserError naming `option`."""
    parts: Sequence[Any] = text.split(",") if isinstance(text, str) else list(text)
    sizes = set()
    for part in parts:
        text_of_part = str(part).strip()
        if text_of_part == AUTO and option == "--batches":
            raise UserError("--batches auto stands alone; write --batches auto, or sizes, e.g. --batches 1,8")
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", text_of_part):
            raise UserError(f"{option} {text_of_part[:40]!r} is not a whole number; write e.g. {option} 1,8")
        size = int(text_of_part)
        if size < 1:
            raise UserError(f"{option} {size} is below 1; use 1 or more")
        if size > LARGEST_SIZE:
            raise UserError(f"{option} {size} is above {LARGEST_SIZE}; use a size that a machine can hold")
        sizes.add(size)
    if not sizes:
        raise UserError(f"{option} is empty; write e.g. {option} 1,8")
    return tuple(sorted(sizes))


def parse_names(text: str | Iterable[str], option: str) -> tuple[str, ...]:
    """`"a,b"` or strings as distinct names in the order given; raises UserError naming `option`."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise UserError(f"{option} is empty; name at least one")
    return names


def _variants_of(backend: type[Backend]) -> Mapping[str, Any]:
    return backend.spec.variants


def parse_candidates(
    backends: str | Iterable[str],
    precisions: str | Iterable[str],
    variants_of: Callable[[type[Backend]], Mapping[str, Any]] | None = None,
    places: Collection[str] = (),
) -> tuple[Candidate, ...]:
    """Every `backend[:variant]` at every precision, precisions outermost; raises UserError with the nearest name.

    `variants_of` a backend's class are those that can be asked for, by default all; `places` are environments, as
    `backend@name`.
    """
    import backends as registry

    known = registry.names()
    wanted = []
    for name in parse_names(backends, "--backends"):
        name, environment, copy = _without_place(name, places)
        backend, _, variant = name.partition(":")
        if backend not in known:
            raise UserError(f"unknown backend {backend!r}{nearest(backend, known)}; `bench list backends` shows all")
        try:
            variants = (variants_of or _variants_of)(registry.load_class(backend))
        except Exception as error:  # a plugin may raise anything
            raise UserError(
                f"backend {backend!r} cannot be loaded from {known[backend]} ({error}); reinstall it"
            ) from None
        variant = variant or "default"
        if variant not in variants and variants_of and variant in _variants_of(registry.load_class(backend)):
            raise UserError(f"{name} is not made for this command; of {backend} it takes {', '.join(variants)}")
        if variant not in variants:
            raise UserError(
                f"backend {backend} has no variant {variant!r}{nearest(variant, variants)}; "
                f"it has {', '.join(variants)}"
            )
        wanted.append((backend, variant, copy, environment))
    chosen = parse_names(precisions, "--precisions")
    for precision in chosen:
        if precision not in PRECISIONS:
            raise UserError(
                f"unknown precision {precision!r}{nearest(precision, PRECISIONS)}; use {','.join(PRECISIONS)}"
            )
    return tuple(
        Candidate(backend, variant, precision, copy, environment)
        for precision in chosen
        for backend, variant, copy, environment in dict.fromkeys(wanted)
    )


def _without_place(name: str, places: Collection[str]) -> tuple[str, str, int]:
    """`onnx:fused@old@2` as ("onnx:fused", "old", 2); without environment "", without copy 1."""
    plain, *behind = name.split("@")
    environment, copy = "", 1
    if behind and f"{plain.partition(':')[0]}@{behind[0]}" in places:
        environment = behind.pop(0)
    if behind:
        given = "@".join(behind)
        if not (re.fullmatch(r"[0-9]{1,2}", given) and 1 <= int(given) <= MOST_COPIES):
            raise UserError(
                f"{given!r} in {name!r} is no number of a copy; write e.g. {plain}@2"
                + (f", or give that environment: --python {plain.partition(':')[0]}@{given}=PATH" if given else "")
            )
        copy = int(given)
    return plain, environment, copy


def parse_share(text: str | float, option: str) -> float:
    """`"2%"` or 0.02 as a share; raises UserError naming `option`."""
    if isinstance(text, float | int):
        return float(text)
    found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{0,9})?)\s*(%?)\s*", text)
    if not found:
        raise UserError(f"{option} {text[:40]!r} is no share; write e.g. {option} 2%")
    return float(found.group(1)) / (100 if found.group(2) else 1)


_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for unit, base in (("", 1000), ("B", 1000), ("IB", 1024))
}


def parse_size(text: str | int, option: str) -> int:
    """`"10GB"` (10^9), `"8GiB"` (2^30) or a number of bytes, as bytes; raises UserError naming `option`."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*([KMGT]?I?B?)", text.strip().upper())
    if not found or found.group(2) not in _UNITS:
        raise UserError(f"{option} {text[:40]!r} is no size; write e.g. 10GB or 500MB")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def parse_boundary(text: str) -> str:
    """One of `BOUNDARIES`; raises UserError with the nearest."""
    if text not in BOUNDARIES:
        raise UserError(f"unknown boundary {text!r}{nearest(text, BOUNDARIES)}; use one of {', '.join(BOUNDARIES)}")
    return text


def check_lengths(shapes: Iterable[Shape], model: str, positions: int | None) -> None:
    """Raise UserError when a length exceeds the model's positions."""
    longest = max(shape.length for shape in shapes)
    if positions is not None and longest > positions:
        raise UserError(f"length {longest} exceeds the {positions} positions of {model}; use --lengths ≤ {positions}")


def check_timeout(seconds: float) -> None:
    """Raise UserError for a time that no worker can be waited for."""
    if not 0 < seconds <= DAY_SECONDS:
        raise UserError(f"--timeout {seconds} is not above 0 and at most a day; use 60 or more")


def check_seed(seed: int) -> None:
    """Raise UserError for a seed that some library would not take."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed} is not within 0 and {LARGEST_SEED}; use e.g. 0")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def model_option(grid: Grid) -> dict[str, str]:
    """The option of a command line that names the grid's model."""
    return {"--module" if grid.weights == MODULE else "--model": grid.model}


def weights_options(grid: Grid) -> dict[str, str]:
    """The options that say which weights and task; none for a module of the user's own, which settles both."""
    return {} if grid.weights == MODULE else {"--weights": grid.weights, "--task": grid.task}


def command_of(
    grid: Grid,
    plan: TimingPlan,
    contestants: Sequence[Candidate],
    shapes: Sequence[Shape],
    beside: Sequence[str] = (),
    has_sizes: bool = True,
) -> str:
    """The command line that measures `contestants` at `shapes` under the options of `grid` and `plan`.

    `beside` are further words of it, e.g. a preset; where that gives the shapes, `has_sizes` is False.
    """
    sizes = {
        "--batches": ",".join(str(batch) for batch in dict.fromkeys(shape.batch for shape in shapes)),
        "--lengths": ",".join(str(length) for length in dict.fromkeys(shape.length for shape in shapes)),
    }
    if grid.batches and len(shapes) == len(grid.shapes):
        sizes["--batches"] = grid.batches
    options = {
        **model_option(grid),
        "--backends": ",".join(dict.fromkeys(contestant.label for contestant in contestants)),
        **(sizes if has_sizes else {}),
        "--device": grid.device,
        "--precisions": ",".join(dict.fromkeys(contestant.precision for contestant in contestants)),
        "--threads": grid.threads,
        **weights_options(grid),
        "--seed": grid.seed,
        "--rounds": plan.rounds,
        "--max-seconds-per-cell": f"{plan.seconds_per_cell:g}",
        "--target-precision": f"{100 * plan.target_precision:g}%",
        "--boundary": grid.boundary,
        "--timeout": f"{plan.timeout_seconds:g}",
    }
    flags = [*tf32_option(grid), *(["--naive-timer"] if plan.naive_timer else [])]
    words = (str(part) for option in options.items() for part in option)
    return shlex.join(["bench", "compare", *words, *python_options(grid, contestants), *flags, *beside])


def artifacts_option(folder: Path) -> list[str]:
    """The words of a command line that name the store, whose environments it may need; none for the default one."""
    return [] if folder == Path(DEFAULT_ARTIFACTS) else ["--artifacts", str(folder)]


def tf32_option(grid: Grid) -> list[str]:
    """The word of a command line that lets products be computed in TF32; none where it was not given."""
    return ["--tf32"] if grid.tf32 else []


def python_options(grid: Grid, contestants: Sequence[Candidate]) -> list[str]:
    """The words of a command line that give `contestants` their interpreters."""
    places = {contestant.place for contestant in contestants}
    return [word for place, path in grid.pythons if place in places for word in ("--python", f"{place}={path}")]
