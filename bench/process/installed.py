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
from bench.machine.host import ROOT
from bench.process.environments.stored import read, unfinished
from bench.spec import PRECISIONS

if TYPE_CHECKING:
    from backends.base import Backend

#: PCI's numbers for the maker and for the class of display controllers, as /sys shows them.
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
#: Packages that one feature needs and nothing requires: module, feature, what to give to `pip install`.
OPTIONAL = (("pandas", "Run.to_frame()", "pandas"),)


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
    """Every backend that computes a model: at which precisions it runs on `device`, and what it lacks.

    `root` is the folder of the store, whose environments are looked at.
    """
    parts = []
    for name, home in backends.names().items():
        try:
            backend = backends.load_class(name)
        except Exception as error:  # a plugin may raise anything
            lack = Lack(f"{home} cannot be loaded ({one_line(error)})", "reinstall the package it comes from")
            parts.append(Part(name, "backend", lacks=(lack,)))
            continue
        if backend.spec.computes_the_model:
            if root is not None and unfinished(root, name):
                lack = Lack("its environment was not finished", f"bench env create {name}")
                parts.append(Part(name, "backend", lacks=(lack,)))
                continue
            elsewhere = root is not None and read(root, name) is not None
            examine = _part_elsewhere if elsewhere else _backend_part
            parts.append(examine(name, backend, device))
    return tuple(parts)


def _part_elsewhere(name: str, backend: type[Backend], device: str) -> Part:
    """A backend with an environment of its own, which says at the run what it can do."""
    spec = backend.spec
    if device not in spec.precisions:
        return Part(name, "backend", f"runs on {', '.join(spec.precisions)}, not on {device}")
    return Part(name, "backend", "in an environment of its own", precisions=spec.precisions[device])


def _backend_part(name: str, backend: type[Backend], device: str) -> Part:
    spec = backend.spec
    if missing := spec.missing():
        return Part(name, "backend", lacks=(Lack(f"needs {', '.join(missing)}", spec.install_command()),))
    if device not in spec.precisions:
        return Part(name, "backend", f"runs on {', '.join(spec.precisions)}, not on {device}")
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
    return tuple(
        Part(module, "package", f"installed, for {feature}")
        if is_installed(module)
        else Part(module, "package", lacks=(Lack(f"not installed; {feature} needs it", f"pip install {install}"),))
        for module, feature, install in OPTIONAL
    )


def cuda_part(cards: list[dict[str, Any]], root: Path = ROOT) -> Part:
    """The GPU that a worker would use, from the fingerprint's `cards`, and what stands between it and torch."""
    if not cards:
        return Part("cuda", "device", "no NVIDIA GPU answers", lacks=tuple(_lacks_of_an_answer(root)))
    card, build = cards[0], torch_cuda_version()
    detail = f"{card['name']}, {card['free_bytes'] / 2**30:.1f} GiB free, driver {card['driver'] or 'unknown'}"
    if len(cards) > 1:
        detail += f"; and {len(cards) - 1} more, which are not used"
    lacks = []
    speaks = card["cuda_driver"]
    if build is None:
        lacks.append(Lack("torch is a CPU build", "pip uninstall -y torch && pip install torch"))
    elif speaks is not None and _major(speaks) < _major(build):
        what = f"torch is built for CUDA {build}, and the driver knows CUDA {speaks} at most"
        lacks.append(Lack(what, "update NVIDIA's driver, or install a torch for that CUDA"))
    return Part("cuda", "device", detail, lacks=tuple(lacks))


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _lacks_of_an_answer(root: Path) -> Iterator[Lack]:
    """Why a GPU that is plugged in does not answer."""
    if not _has_nvidia_gpu(root):
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        yield Lack(f"CUDA_VISIBLE_DEVICES is {hidden!r}, which may hide the GPU", "unset CUDA_VISIBLE_DEVICES")
    else:
        remedy = "install NVIDIA's driver, or start the container with --gpus all; nvidia-smi must list the GPU"
        yield Lack("an NVIDIA GPU is plugged in, and its driver does not answer", remedy)


def _has_nvidia_gpu(root: Path) -> bool:
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        try:
            kind = vendor.with_name("class").read_text()
            if vendor.read_text().strip() == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS):
                return True
        except OSError:
            continue
    return False
