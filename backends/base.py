"""What every runtime declares and must do, and the errors that it may raise.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

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


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a backend declares. Read in the parent process, so nothing here imports the runtime."""

    name: str
    """Name in the registry."""
    format: str | None
    """Artifact format that `load` takes, unless the variant has an option "format"; None: needs no model."""
    variants: Mapping[str, Options] = field(default_factory=lambda: {"default": {}})
    """Variant name -> options for `load`; must contain "default"."""
    precisions: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"cpu": ("fp32",)})
    """Precisions by device."""
    artifact_precisions: Mapping[str, str] = field(default_factory=dict)
    """Precision -> that of the artifact, if `load` converts; a variant's option "artifact_precisions" overrides it."""
    requires: tuple[str, ...] = ()
    """Modules that must be importable."""
    distributions: tuple[str, ...] = ()
    """Distributions that must be installed too, if an importable module does not prove it."""
    install: str = ""
    """Arguments of `pip install` that add what is required, with spaces between."""
    requirements: Path | None = None
    """Pinned requirements file from which `bench env create` makes this backend's own environment."""
    computes_the_model: bool = True
    """False if the outputs are not the model's and must not be judged."""
    takes_tf32: bool = False
    """True if `load` takes the option `tf32`: fp32 products on a GPU round their inputs to TF32."""
    limits_device_memory: bool = False
    """True if `load` keeps the device's allocator within the option `memory_limit_bytes`."""
    settling_calls: Mapping[str, int] = field(default_factory=dict)
    """Device -> first calls at a new shape that may differ from later ones by rounding. All others repeat exactly."""
    compiled_per_shape: tuple[str, ...] = ()
    """Variants that compile again for every shape."""
    generation: Mapping[str, Options] = field(default_factory=dict)
    """Variants that generate with a cache: name -> options for a `load` that is followed by `step` alone."""
    generation_format: str | None = None
    """Artifact format that such a load takes, if it is not `format`."""
    not_for_deployment: tuple[str, ...] = ()
    """Variants that demonstrate something and that tuning leaves out."""

    def missing(self) -> list[str]:
        """Required modules and distributions that this environment lacks."""
        modules = [module for module in self.requires if not is_installed(module)]
        return modules or [name for name in self.distributions if distribution_version(name) is None]

    def install_command(self) -> str:
        """The exact command that adds what `missing` lists."""
        packages = " ".join(f"'{one}'" for one in self.install.split())
        return f"bench env create {self.name}" if self.requirements else f"pip install {packages}"

    def versions(self) -> dict[str, str]:
        """Version of each required distribution that is installed."""
        required = (*self.requires, *self.distributions)
        return {name: version for name in required if (version := distribution_version(name))}

    def format_of(self, variant: str) -> str | None:
        """Artifact format that `load` takes for `variant`."""
        found: str | None = self.variants.get(variant, {}).get("format", self.format)
        return found

    def artifact_precision(self, variant: str, precision: str) -> str:
        """Precision of the artifact that `load` takes to compute in `precision`."""
        declared = self.variants.get(variant, {}).get("artifact_precisions", self.artifact_precisions)
        return str(declared.get(precision, precision))

    def compiles_every_shape(self, variant: str) -> bool:
        """True if `variant` compiles again for every shape; a name that is no variant is loaded as the default."""
        return (variant if variant in self.variants else "default") in self.compiled_per_shape

    def refusal(self, device: str, precision: str) -> str | None:
        """Why the declaration rules out `precision` on `device` in this environment, or None."""
        if missing := self.missing():
            return f"{self.name} needs {', '.join(missing)}, not installed; run: {self.install_command()}"
        if device not in self.precisions:
            return f"{self.name} does not run on {device}; use --device {' or '.join(self.precisions)}"
        if precision not in self.precisions[device]:
            known = ",".join(self.precisions[device])
            return f"{self.name} has no {precision} on {device}; use --precisions {known}"
        return None


class Backend(ABC):
    """One runtime, loading one artifact and running it. What only some runtimes have: `backends.protocols`.

    The caller owns the clock: a backend never times itself, never warms itself up, never chooses its inputs and never
    falls back in silence. Arguments and results of `run` stay on the device.

    `open_checkpoint(path, device, precision)` is passed by the caller, for the format "checkpoint"; it returns the
    `torch.nn.Module` in eval mode on that device.
    """

    spec: ClassVar[Spec]

    def __init__(self, open_checkpoint: Callable[[Path, str, str], Any] | None = None) -> None:
        self.open_checkpoint = open_checkpoint

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        """Why this backend cannot run `variant` in `precision` on `device` here, or None if it can.

        Called in the parent process: nothing heavy may be imported.
        """
        return cls.spec.refusal(device, precision)

    @abstractmethod
    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        """Read the artifact folder `path` onto `device` ("cpu" or "cuda"), computing with `threads` threads.

        `options` are the variant's, and those that the spec says it takes: `tf32`, `memory_limit_bytes`.
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

    def synchronize(self) -> None:
        """Return when the device has finished all that `run` started."""

    @abstractmethod
    def fetch(self, outputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Copy what `run` returned to host arrays by output name; bf16 comes as float32. Not timed."""

    def facts(self) -> dict[str, Any]:
        """What the runtime really did: providers, nodes per provider, compilations. JSON types only."""
        return {}

    def close(self) -> None:
        """Free the model; may be called twice."""


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
