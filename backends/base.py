"""The one interface behind which every runtime stands, and the errors that it may raise.

BackendError                a runtime refused or failed
├── UnsupportedError        it cannot do what was asked (device, precision, model), with the remedy
└── OutOfMemoryError        host or device memory ran out, whichever runtime noticed
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch

Options = Mapping[str, Any]
Batch = Mapping[str, "np.ndarray[Any, Any]"]


class BackendError(Exception):
    """A runtime refused or failed; the message is one line for the user."""


class UnsupportedError(BackendError):
    """This backend cannot do what was asked; the message says why and what would help."""


class OutOfMemoryError(BackendError):
    """Memory ran out; `figures` holds the byte counts that the runtime's message gave."""

    def __init__(self, message: str, figures: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.figures = dict(figures or {})


@dataclass(frozen=True)
class InnerValue:
    """A tensor inside a loaded model: the operation that makes it, and the names of the values that it reads."""

    operation: str
    inputs: tuple[str, ...] = ()


class Backend(ABC):
    """One runtime, loading one artifact and running it.

    The caller owns the clock: a backend never times itself, never warms itself up and never
    chooses its inputs. Arguments and results of `run` stay on the device.

    `open_checkpoint(path, device, precision)` is handed in by the caller for backends whose
    `format` is "checkpoint"; it returns the `torch.nn.Module` in eval mode on that device.
    """

    name: ClassVar[str]
    #: Artifact format that `load` takes, or None for a backend that needs no model.
    format: ClassVar[str | None]
    #: Variant name -> options for `load`; "default" is always there.
    variants: ClassVar[Mapping[str, Options]] = {"default": {}}
    #: Modules that must be importable.
    requires: ClassVar[tuple[str, ...]] = ()
    #: What to give to `pip install` when one of them is not.
    install: ClassVar[str] = ""
    #: Pinned requirements that `bench env create` makes an environment of this backend's own from, or None.
    requirements: ClassVar[Path | None] = None
    #: Precisions this runtime has, per device.
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {"cpu": ("fp32",)}
    #: True where `load` keeps the device's allocator within the option `memory_limit_bytes`.
    limits_device_memory: ClassVar[bool] = False
    #: True where `load` takes the option `tf32`: fp32 products on a GPU round their inputs to TF32.
    takes_tf32: ClassVar[bool] = False
    #: Calls at a new shape, per device, that may be off the later ones by rounding; all others repeat bit for bit.
    settling_calls: ClassVar[Mapping[str, int]] = {}
    #: False for a backend whose outputs are not the model's and must not be judged.
    computes_the_model: ClassVar[bool] = True
    #: Ways to generate with a cache, as variant name -> options for a `load` that is followed by `step` alone.
    generation: ClassVar[Mapping[str, Options]] = {}
    #: Artifact format that such a load takes, where it is not `format`.
    generation_format: ClassVar[str | None] = None

    #: Variants that show something and that nobody would deploy; tuning leaves them out.
    not_for_deployment: ClassVar[tuple[str, ...]] = ()
    #: True for a runtime that compiles anew for every shape; a loaded one says it of its variant.
    has_static_shapes: ClassVar[bool] = False
    #: True after a load whose cache has all its room from the start, so that `step` takes masks of the whole room.
    cache_is_static: bool = False

    def __init__(self, open_checkpoint: Callable[[Path, str, str], Any] | None = None) -> None:
        self.open_checkpoint = open_checkpoint

    @classmethod
    def missing(cls) -> list[str]:
        """Names of required modules that this environment lacks."""
        return [module for module in cls.requires if not is_installed(module)]

    @classmethod
    def supports(cls, device: str, precision: str) -> str | None:
        """Why this backend cannot run `precision` on `device` here, or None when it can.

        Asked in the parent process: nothing heavy may be imported.
        """
        if missing := cls.missing():
            return f"{cls.name} needs {', '.join(missing)}, not installed; run: {cls.install_command()}"
        if device not in cls.precisions:
            return f"{cls.name} does not run on {device}; use --device {' or '.join(cls.precisions)}"
        if precision not in cls.precisions[device]:
            known = ",".join(cls.precisions[device])
            return f"{cls.name} has no {precision} on {device}; use --precisions {known}"
        return None

    @classmethod
    def refuses(cls, variant: str, device: str, precision: str) -> str | None:
        """Why one variant cannot run where `supports` has nothing against the backend, or None when it can.

        Asked in the parent process too.
        """
        return None

    @classmethod
    def compiles_every_shape(cls, variant: str) -> bool:
        """True for a variant that compiles anew for every shape."""
        return cls.has_static_shapes

    @classmethod
    def format_of(cls, variant: str, precision: str) -> str | None:
        """Artifact format that `load` takes for a variant: that of its option "format", else `format`."""
        found: str | None = cls.variants.get(variant, {}).get("format", cls.format)
        return found

    @classmethod
    def artifact_precision(cls, variant: str, precision: str) -> str:
        """Precision of the artifact that `load` takes to compute in `precision`; another one where `load` converts."""
        return precision

    @classmethod
    def install_command(cls) -> str:
        """The exact command that adds what `missing` lists."""
        return f"bench env create {cls.name}" if cls.requirements else f"pip install '{cls.install}'"

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Version of each required distribution that is installed."""
        return {module: version for module in cls.requires if (version := distribution_version(module))}

    @abstractmethod
    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        """Read the artifact folder `path` onto `device` ("cpu" or "cuda"), computing with `threads` threads.

        Raises UnsupportedError, OutOfMemoryError or BackendError.
        """

    @abstractmethod
    def prepare(self, batch: Batch) -> Any:
        """Move arrays (int64, [batch, length], in the model's input order) to the device. Not timed.

        They may also be torch tensors that are there already, of which the latest call's are kept.
        """

    @abstractmethod
    def run(self, prepared: Any) -> Any:
        """Start one forward pass; the timed call, and nothing else in it."""

    def has_cache(self) -> bool:
        """True when the loaded model can generate with a cache of keys and values, by `new_cache` and `step`."""
        return False

    def new_cache(self, rows: int, room: int) -> Any:
        """An empty cache for `rows` sequences of at most `room` tokens, prompt included.

        A static one may be that of an earlier call, emptied: only the latest is valid. Raises UnsupportedError, as the
        next three do, where `has_cache` is False.
        """
        raise UnsupportedError(f"{self.name} keeps no keys and values")

    def step(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Start a pass over new tokens alone; returns logits [rows, vocabulary] behind the last, and the longer cache.

        Tensors are on the device: `ids` int64 [rows, new]; `mask` int64 [rows, earlier + new], and [rows, room] where
        `cache_is_static`, 0 for the prompt's padding alone. Logits are floating, and may be overwritten by the next
        step; the cache that was given is used up.
        """
        raise UnsupportedError(f"{self.name} keeps no keys and values")

    def step_watched(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """`step` once, not timed, and facts on what it really took, as `run_watched` has them."""
        return (*self.step(ids, mask, cache), {})

    def reorder(self, cache: Any, rows: torch.Tensor) -> Any:
        """The cache that holds the sequences `rows`, int64 [rows'] on the device, in that order, some perhaps twice.

        A static one keeps its number of sequences: another one raises UnsupportedError. The cache given is used up.
        """
        raise UnsupportedError(f"{self.name} keeps no keys and values")

    def cache_bytes(self, cache: Any) -> int:
        """Bytes of keys and values that the cache holds, of a static one its whole room."""
        raise UnsupportedError(f"{self.name} keeps no keys and values")

    def keep_shapes(self, count: int) -> None:
        """Forget what was compiled, and from here on hold up to `count` shapes of `prepare` at once, not only the last.

        One more than `count` forgets them all again.
        """

    def release(self, outputs: Any) -> None:
        """Let go of what `run` returned where `prepared` holds on to it; that can be run again."""

    def synchronize(self) -> None:
        """Return when the device has finished all that `run` started."""

    @abstractmethod
    def fetch(self, outputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Copy what `run` returned to host arrays by output name; bf16 comes as float32. Not timed."""

    def tensors(self, outputs: Any) -> tuple[torch.Tensor, ...]:
        """What `run` returned as torch tensors where it lies, without a copy; valid until the next `run`.

        Raises UnsupportedError where the runtime has none.
        """
        raise UnsupportedError(f"{self.name} hands out no outputs on the device")

    def close(self) -> None:
        """Free the model; may be called twice."""

    def mark(self) -> Any:
        """Record an event on the device's stream, or None where the device has no clock of its own."""
        return None

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Device nanoseconds between two marks, asked for after `synchronize`."""
        raise BackendError(f"{self.name} has no device clock")

    def trim(self) -> None:
        """Give cached memory back to the device, between cells."""

    def run_watched(self, prepared: Any) -> tuple[Any, dict[str, Any]]:
        """`run` once, not timed, and facts on what the call really took, such as its attention kernels."""
        return self.run(prepared), {}

    def memory(self) -> dict[str, int]:
        """Bytes held: `parameters_bytes` (parameters and buffers), and on a device with memory of its own
        `allocated_bytes`, `reserved_bytes`, `peak_allocated_bytes` and `peak_reserved_bytes` of its allocator.

        What is not known is left out.
        """
        return {}

    def reset_memory_peak(self) -> None:
        """Set the peaks of `memory` back to what is held now."""

    def inner_values(self) -> dict[str, InnerValue]:
        """Tensors inside the loaded model that `run_inner` can hand out, by name, in execution order.

        Raises UnsupportedError, as here, where the runtime hands out none.
        """
        raise UnsupportedError(f"{self.name} hands out no values from inside the model, so nothing can be bisected")

    def run_inner(self, batch: Batch, names: Sequence[str]) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """The values `names`, inner ones or outputs, of one call on host arrays, and what asking for them changed:
        `undone`, how many nodes fewer ran of each fused operator, and `notes`, sentences for the user.

        With outputs alone it is the call that `run` makes; after inner values, `load` comes before the next `run`.
        """
        raise UnsupportedError(f"{self.name} hands out no values from inside the model, so nothing can be bisected")

    def facts(self) -> dict[str, Any]:
        """What the runtime really did: providers, nodes per provider, compilations. JSON types only."""
        return {}


def is_installed(module: str) -> bool:
    """True when `module` could be imported; looks only at files."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def distribution_version(module: str) -> str | None:
    """Version of the distribution that provides `module`, or None."""
    for distribution in (module, f"{module}-gpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def module_folder(module: str) -> Path | None:
    """Folder that `module` is installed in, without importing it; None when it is not."""
    spec = importlib.util.find_spec(module) if is_installed(module) else None
    return Path(spec.origin).parent if spec and spec.origin else None


def torch_cuda_version() -> str | None:
    """CUDA version that the installed torch was built for, read from its version file; None for a CPU build."""
    folder = module_folder("torch")
    if folder is None or not (folder / "version.py").is_file():
        return None
    found = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", (folder / "version.py").read_text(), re.MULTILINE)
    return found.group(1) if found else None


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata that the exporter left in artifact folder `path`: names of inputs and outputs, and more."""
    metadata: dict[str, Any] = json.loads((path / "artifact.json").read_text())["metadata"]
    return metadata


_UNITS = {"": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]iB|bytes)?"
#: Messages by which torch, ONNX Runtime, CUDA's libraries, C++ and Python say that memory ran out.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|bad_?alloc"
    r"|Failed to allocate memory|smaller than requested bytes|unable to allocate"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|Thread creation failed",
    re.IGNORECASE,
)
_FIGURES = {
    "requested_bytes": (
        rf"[Tt]ried to allocate {_SIZE}",
        rf"[Uu]nable to allocate {_SIZE}",
        rf"requested buffer of size {_SIZE}",
        rf"requested bytes of {_SIZE}",
    ),
    "total_bytes": (rf"total capacity of {_SIZE}", rf"{_SIZE} total"),
    "free_bytes": (rf"of which {_SIZE} is free", rf"{_SIZE} free", rf"Available memory of {_SIZE}"),
    "allocated_bytes": (rf"{_SIZE} is allocated by PyTorch", rf"{_SIZE} (?:already )?allocated"),
    "reserved_bytes": (rf"{_SIZE} reserved in total",),
    "reserved_unallocated_bytes": (rf"{_SIZE} is reserved by PyTorch but unallocated",),
    "process_bytes": (rf"this process has {_SIZE} memory in use",),
}


def parse_out_of_memory(message: str) -> dict[str, int] | None:
    """Byte counts in a runtime's out-of-memory message, or None when the message is about something else."""
    if not _OUT_OF_MEMORY.search(message):
        return None
    figures: dict[str, int] = {}
    for figure, patterns in _FIGURES.items():
        for pattern in patterns:
            if found := re.search(pattern, message):
                figures[figure] = round(float(found.group(1).rstrip(".")) * _UNITS[found.group(2) or ""])
                break
    return figures


@contextmanager
def runtime_errors() -> Iterator[None]:
    """Turn whatever a runtime raises inside the block into BackendError or one of its kinds."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        message = one_line(error)
        figures = parse_out_of_memory(f"{type(error).__name__}: {error}")
        if figures is not None or isinstance(error, MemoryError):
            raise OutOfMemoryError(message, figures) from error
        raise BackendError(message) from error


def one_line(error: BaseException) -> str:
    """An exception as one line of at most 600 characters, its type first."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if "Traceback of TorchScript" in text:  # the cause stands behind the serialized code
        text = text[text.rfind("Error: ", 0, len(text)) - len(type(error).__name__) + len("Error") :]
    text = re.split(r" (?:Exception raised from|frame #0)", text)[0]
    return text if len(text) <= 600 else text[:597] + "..."
