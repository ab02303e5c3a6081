"""Options, declared once: a field has its type, help, parser and default.

A field of an options class becomes an option of the command, a keyword of the API, an entry of the run's header, a row
of the reference page and a word of the command that repeats a cell. The parsers of `bench.words` stand here too, for
declarations to name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from bench import spec
from bench.errors import UserError
from bench.words import Parser as Parser
from bench.words import checked as checked
from bench.words import flag as flag
from bench.words import from_0 as from_0
from bench.words import names as names
from bench.words import number as number
from bench.words import one_of as one_of
from bench.words import paths as paths
from bench.words import seconds as seconds
from bench.words import shapes as shapes
from bench.words import share as share
from bench.words import shown as shown
from bench.words import shown_seconds as shown_seconds
from bench.words import shown_shapes as shown_shapes
from bench.words import shown_share as shown_share
from bench.words import size_bytes as size_bytes
from bench.words import sizes as sizes
from bench.words import text as text
from bench.words import whole as whole

Self = TypeVar("Self", bound="Options")
#: Silence after which a process is taken for hung, if nobody says otherwise.
TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True)
class Declaration:
    """What a field of an options class says beside its name and default."""

    help: str
    parse: Parser
    show: Callable[[Any], str] = shown
    """The value as a word of a command line."""
    aliases: tuple[str, ...] = ()
    """Older spellings; each prints a one-line notice. They end with version 0.3.0."""
    metavar: str = ""
    in_command: bool = True
    """False for what the command that repeats a cell leaves out."""
    repeats: bool = False
    """True for an option that may be given several times."""
    default_shown: str = ""
    """What the help says of the default if it is not the value itself."""

    @property
    def flag(self) -> bool:
        """True for an option without a value."""
        return self.parse is flag


def option(help: str, parse: Parser, *, default: Any = MISSING, **declared: Any) -> Any:
    """Declare an option as a field of a dataclass; `declared` are further fields of its `Declaration`."""
    return field(default=default, metadata={"option": Declaration(help, parse, **declared)}, kw_only=True)


def settled(default: Any) -> Any:
    """A field that the run settles: part of its header, and no option of anybody's."""
    return field(default=default, kw_only=True)


def declared_as(name: str, of: type[Options], default: Any, help: str = "") -> Any:
    """An option as `of` declares it, with another default, and with another help if that is given."""
    found = declaration(of.__dataclass_fields__[name])
    return field(default=default, metadata={"option": replace(found, help=help or found.help)}, kw_only=True)


def declaration(of: Field[Any]) -> Declaration:
    """The declaration of a field of an options class."""
    found: Declaration = of.metadata["option"]
    return found


def spelling(name: str) -> str:
    """The option of a field, e.g. `--max-seconds-per-cell`."""
    return "--" + name.rstrip("_").replace("_", "-")


@dataclass(frozen=True)
class Options:
    """Base of all options classes."""

    command: ClassVar[str] = ""
    """Name on the command line."""
    function: ClassVar[str] = ""
    """Name in the API; measure_COMMAND if empty."""
    summary: ClassVar[str] = ""
    """What the command does, in one sentence."""

    @classmethod
    def declared(cls) -> tuple[Field[Any], ...]:
        """Every option in the order of its declaration."""
        return tuple(found for found in fields(cls) if "option" in found.metadata)

    @classmethod
    def parsed(cls: type[Self], given: Mapping[str, Any]) -> Self:
        """Options from keywords or words of a command line; None stands for "not given".

        Raises UserError for an unknown name or a value that its parser refuses.
        """
        known = {found.name: found for found in cls.declared()}
        for name in given:
            if name not in known:
                raise UserError(
                    f"unknown option {name!r}{spec.nearest(name, known)}; `bench {cls.command} --help` lists all"
                )
        parsers = ((name, declaration(known[name]).parse, value) for name, value in given.items() if value is not None)
        return cls(**{name: parse(value, spelling(name)) for name, parse, value in parsers})

    def to_json(self) -> dict[str, Any]:
        """Every option, and what was settled, as JSON types."""
        return {found.name: getattr(self, found.name) for found in fields(self)}

    def words(self, left_out: Iterable[str] = ()) -> list[str]:
        """The options that differ from their defaults, as words of a command line."""
        words: list[str] = []
        for found in self.declared():
            declared, value = declaration(found), getattr(self, found.name)
            if value == found.default or not declared.in_command or found.name in left_out or value is None:
                continue
            if declared.flag:
                words.append(spelling(found.name) if value else spelling(f"no_{found.name}"))
            elif declared.repeats:
                words += [word for one in value for word in (spelling(found.name), declared.show(one))]
            else:
                words += [spelling(found.name), declared.show(value)]
        return words

    def command_line(self, left_out: Iterable[str] = ()) -> str:
        """The command line that runs with these options."""
        return shlex.join(["bench", self.command, *self.words(left_out)])


# What every workload takes.

_WEIGHTS = ("auto", "random", "pretrained")
_LONG_PRECISIONS = {"float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}


def device(value: Any, option: str) -> str:
    """`auto`, `cpu`, `cuda` (also `gpu`), or a card of its own as `cuda:1`."""
    given = str(value).strip().lower()
    given = "cuda" + given.removeprefix("gpu") if given.startswith("gpu") else given
    if re.fullmatch(r"cuda:[0-9]{1,2}", given):
        return given
    return str(one_of(spec.DEVICES)(given, option))


def precisions(value: Any, option: str) -> tuple[str, ...]:
    """`fp32,bf16`; `float32` and its like mean the same."""
    found = tuple(dict.fromkeys(_LONG_PRECISIONS.get(name.lower(), name) for name in spec.parse_names(value, option)))
    for name in found:
        if name not in spec.PRECISIONS:
            near = spec.nearest(name[:40], spec.PRECISIONS)
            raise UserError(f"unknown precision {name[:40]!r}{near}; use {','.join(spec.PRECISIONS)}")
    return found


@dataclass(frozen=True)
class CommonOptions(Options):
    """Options of every workload; those that are None or "auto" are settled before the run begins."""

    model: str = option(
        "Built-in name (`bench list models`), folder of a saved model, or Hub id.", text, default="bert"
    )
    module: str | None = option(
        "Your own model: path/to/file.py:FUNCTION that returns a torch.nn.Module.", text, default=None
    )
    backends: tuple[str, ...] = option(
        "Comma-separated backend[:variant][@environment].", names, default=("eager", "onnx", "torchscript")
    )
    baseline: str | None = option(
        "The candidate that speed-ups are against.",
        text,
        default=None,
        default_shown="eager if it takes part, else the first",
    )
    precisions: tuple[str, ...] = option("Any of fp32, fp16, bf16, int8.", precisions, default=("fp32",))
    device: str = option("auto, cpu, cuda, or a card as cuda:1.", device, default="auto")
    threads: int | None = option(
        "Threads for every runtime alike.",
        whole(1, 4096, 2),
        default=None,
        default_shown="the CPUs this process may use",
    )
    weights: str = option(
        "auto (pretrained if on this machine, else random), random, or pretrained (may download).",
        one_of(_WEIGHTS),
        default="auto",
    )
    task: str = option("base (last hidden state) or lm (logits).", one_of(("base", "lm")), default="base")
    tf32: bool = option("Let fp32 products on a GPU round their inputs to TF32.", flag, default=False)
    seed: int = option("Seed of random weights, inputs and turns.", whole(0, spec.LARGEST_SEED, 0), default=0)
    budget: float | None = option(
        "Time for the whole run, e.g. 20m, 90s, 1h: what does not fit is left out.",
        seconds(example="20m"),
        default=None,
        show=shown_seconds,
    )
    timeout: float = option(
        "Silence after which a process is taken for hung; an export or a reference may take four times that.",
        seconds(example="60s"), default=TIMEOUT_SECONDS, show=shown_seconds,
    )  # fmt: skip
    python: tuple[str, ...] = option(
        "Interpreter of an environment of yours for a backend, e.g. onnx@old=old/bin/python. May be repeated.",
        paths,
        default=(),
        metavar="BACKEND=PATH",
        repeats=True,
    )
    output: str | None = option(
        "File for the records (JSON Lines).",
        text,
        default=None,
        in_command=False,
        default_shown="a new one under ARTIFACTS/runs",
    )
    artifacts: str = option("Folder for exported models and runs.", text, default=spec.DEFAULT_ARTIFACTS)

    @classmethod
    def parsed(cls: type[Self], given: Mapping[str, Any]) -> Self:
        """As `Options.parsed`; also raises UserError for what a module of the user's own settles."""
        both = [name for name in ("model", "weights", "task") if given.get(name) is not None]
        if both and given.get("module") is not None:
            raise UserError(f"--{both[0]} cannot be given with --module, whose function settles it; leave one out")
        return super().parsed(given)

    @property
    def settled_threads(self) -> int:
        """Threads of every runtime; settled before a run begins."""
        assert self.threads is not None
        return self.threads

    @property
    def kind(self) -> str:
        """ "cpu" or "cuda", whichever card."""
        return self.device.partition(":")[0]

    @property
    def card(self) -> int | None:
        """Index of the card that was asked for; None for the first."""
        index = self.device.partition(":")[2]
        return int(index) if index else None

    def computed_in(self, precision: str) -> str:
        """Arithmetic that products at `precision` may be done in: "tf32" for fp32 under `tf32`, else the precision."""
        return "tf32" if self.tf32 and precision == "fp32" else precision

    def words(self, left_out: Iterable[str] = ()) -> list[str]:
        """As `Options.words`; the user's own module settles model, weights and task."""
        settled = ("model", "weights", "task") if self.module is not None else ("model",)
        model = [] if self.module is not None else ["--model", self.model]
        return [*model, *super().words((*left_out, *settled))]
