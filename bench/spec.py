"""What to measure: plain frozen dataclasses, and every check of the user's input."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import UserError

if TYPE_CHECKING:
    from backends.base import Backend

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_ARTIFACTS = "artifacts"
#: Weights of the user's own module.
MODULE = "module"
DEVICES = ("auto", "cpu", "cuda")
DEFAULT_BATCHES = (1, 8)
#: What a user writes in place of sizes, where batches double as long as that gains.
AUTO = "auto"
DEFAULT_LENGTHS = (16, 128, 512)
#: What upstream says of a backend that a user would regret not to know.
DEPRECATED = {
    "torchscript": "TorchScript is deprecated upstream (torch 2.9 on): no new operators or fixes; "
    "torch.export is its successor",
}
MOST_ROUNDS = 10_000
MOST_COPIES = 99
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
    def is_original(self) -> bool:
        """True for eager in fp32, the model as its author runs it."""
        return (self.backend, self.variant, self.precision, self.environment) == ("eager", "default", "fp32", "")

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
        raise UserError(f"{option} {text[:40]!r} is no size; write e.g. 10GiB or 10GB")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def check_lengths(shapes: Iterable[Shape], model: str, positions: int | None) -> None:
    """Raise UserError when a length exceeds the model's positions."""
    longest = max(shape.length for shape in shapes)
    if positions is not None and longest > positions:
        raise UserError(f"length {longest} exceeds the {positions} positions of {model}; use --lengths ≤ {positions}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
