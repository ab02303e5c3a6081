"""What is installed on this machine, and the exact command that adds what is missing. Imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backends
import exporters
from backends.base import is_installed, one_line, torch_cuda_version
from bench.machine import host
from bench.machine.host import ROOT
from bench.process.environments.stored import flaw, read
from bench.spec import PRECISIONS

if TYPE_CHECKING:
    from backends.base import Backend

#: PCI's numbers for the maker and for the class of display controllers, as /sys shows them.
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"


@dataclass(frozen=True)
class Lack:
    """Something missing, and the command that adds it; the remedy is "" where none is known."""

    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Part:
    """One thing that is installed, or should be: a backend, a device or an optional package."""

    name: str
    kind: str
    """"device", "backend" or "package"."""
    detail: str = ""
    """What it is, or is for."""
    precisions: tuple[str, ...] = ()
    """Those that a backend has on the device examined."""
    lacks: tuple[Lack, ...] = ()

    @property
    def is_ready(self) -> bool:
        """True where nothing is missing."""
        return not self.lacks


def backend_parts(device: str, root: Path | None = None) -> tuple[Part, ...]:
    """Every backend that computes a model, here or in an environment under `root`: precisions and lacks."""
    parts = (_backend_part(name, home, device, root) for name, home in backends.names().items())
    return tuple(part for part in parts if part is not None)


def _backend_part(name: str, home: str, device: str, root: Path | None) -> Part | None:
    def lacking(what: str, remedy: str) -> Part:
        return Part(name, "backend", lacks=(Lack(what, remedy),))

    try:
        backend = backends.load_class(name)
    except Exception as error:  # a plugin may raise anything
        return lacking(f"{home} cannot be loaded ({one_line(error)})", "reinstall the package it comes from")
    spec = backend.spec
    if not spec.computes_the_model:
        return None
    if root is not None and (wrong := flaw(root, name)):
        return lacking(f"its environment {wrong}", f"bench env create {name}")
    is_elsewhere = root is not None and read(root, name) is not None
    if not is_elsewhere and (missing := spec.missing()):
        return lacking(f"needs {', '.join(missing)}", spec.install_command())
    if device not in spec.precisions:
        return Part(name, "backend", f"runs on {', '.join(spec.precisions)}, not on {device}")
    if is_elsewhere:  # which says at the run what it can do
        return Part(name, "backend", "in an environment of its own", precisions=spec.precisions[device])
    reasons = {one: _refusal(backend, device, one) for one in PRECISIONS if one in spec.precisions[device]}
    usable = tuple(precision for precision, reason in reasons.items() if reason is None)
    lacks = [_as_lack(name, reason) for reason in dict.fromkeys(reasons.values()) if reason is not None]
    lacks += _lacks_of_the_export(spec.format)
    if name in ("compile", "aoti"):
        lacks += _lacks_of_the_compiler(device)
    return Part(name, "backend", precisions=usable, lacks=tuple(lacks))


def _refusal(backend: type[Backend], device: str, precision: str) -> str | None:
    """Why no variant of a backend runs, which is the default's reason, or None if one does."""
    reasons = [backend.supports(variant, device, precision) for variant in backend.spec.variants]
    return None if None in reasons else reasons[0]


def _as_lack(name: str, reason: str) -> Lack:
    """A backend's reason, which is written `cause; remedy` (style of every refusal here), in two."""
    what, _, remedy = reason.partition("; ")
    return Lack(what.removeprefix(f"{name} "), remedy.removeprefix("run: "))


def _lacks_of_the_export(format: str | None) -> Iterator[Lack]:
    """What the backend's artifact cannot be made without."""
    if format is None:
        return
    if format not in exporters.names():
        yield Lack(f"nothing exports the format {format!r}", "install a package that does")
        return
    try:
        libraries = exporters.library_versions(exporters.load_module(format).LIBRARIES)
    except Exception as error:  # a plugin may raise anything
        what = f"the exporter of {format!r} cannot be loaded ({one_line(error)})"
        yield Lack(what, "reinstall the package it comes from")
        return
    missing = [name for name, version in libraries.items() if version == "missing"]
    if missing:
        what = f"the {format} export needs {', '.join(missing)}"
        yield Lack(what, f"pip install {' '.join(missing)}")


def _lacks_of_the_compiler(device: str) -> Iterator[Lack]:
    """What Inductor builds its kernels with: C++ for the CPU; for CUDA, Triton and C for its launcher."""
    if device == "cuda":
        if not is_installed("triton"):
            yield Lack("needs triton on cuda", "pip install triton")
        compilers, package = [os.environ.get("CC", "gcc"), "clang"], "gcc"
    else:
        compilers, package = [os.environ.get("CXX", "g++")], "g++"
    if not any(shutil.which(compiler) for compiler in compilers):
        yield Lack(f"needs a compiler, and {compilers[0]} is not there", f"sudo apt-get install {package}")
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        yield Lack("needs Python's header files (Python.h)", "sudo apt-get install python3-dev")


def package_parts() -> tuple[Part, ...]:
    """Packages that only one feature needs."""
    if is_installed("pandas"):
        return (Part("pandas", "package", "installed, for Run.to_frame()"),)
    return (Part("pandas", "package", lacks=(Lack("not installed; Run.to_frame() needs it", "pip install pandas"),)),)


def cuda_part(cards: list[dict[str, Any]], root: Path = ROOT) -> Part:
    """The GPU that a worker would use, from the fingerprint's `cards`, and what stands between it and torch."""
    if not cards:
        return Part("cuda", "device", "no NVIDIA GPU answers", lacks=tuple(_lacks_of_an_answer(root)))
    card, build, lacks = cards[0], torch_cuda_version(), []
    detail = f"{card['name']}, {card['free_bytes'] / 2**30:.1f} GiB free, driver {card['driver'] or 'unknown'}"
    if len(cards) > 1:
        detail += f"; and {len(cards) - 1} more, which are not used"
    known = card["cuda_driver"]
    if build is None:
        lacks.append(Lack("torch is a CPU build", "pip uninstall -y torch && pip install torch"))
    elif known is not None and int(known.partition(".")[0]) < int(build.partition(".")[0]):
        what = f"torch is built for CUDA {build}, and the driver knows CUDA {known} at most"
        lacks.append(Lack(what, "update NVIDIA's driver, or install a torch for that CUDA"))
    return Part("cuda", "device", detail, lacks=tuple(lacks))


def _lacks_of_an_answer(root: Path) -> Iterator[Lack]:
    """Why a GPU that is plugged in does not answer."""
    devices = (folder.parent for folder in (root / "sys/bus/pci/devices").glob("*/vendor"))
    if not any(
        host.read(device, "vendor") == NVIDIA_VENDOR and (host.read(device, "class") or "").startswith(DISPLAY_CLASS)
        for device in devices
    ):
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not is_installed("pynvml"):
        yield Lack("nvidia-ml-py is not installed, by which GPUs are found", "pip install nvidia-ml-py")
    elif hidden is not None:
        yield Lack(f"CUDA_VISIBLE_DEVICES is {hidden!r}, which may hide the GPU", "unset CUDA_VISIBLE_DEVICES")
    else:
        remedy = "install NVIDIA's driver, or start the container with --gpus all; nvidia-smi must list the GPU"
        yield Lack("an NVIDIA GPU is plugged in, and its driver does not answer", remedy)
