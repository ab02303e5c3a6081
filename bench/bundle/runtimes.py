"""The runtimes that a bundle can carry: what each needs to run alone, and why the others cannot be carried."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import backends
from bench import __version__
from bench.bundle.selection import plain
from bench.errors import UserError
from bench.process.environments.stored import parse_pythons
from bench.run.record import Run
from bench.spec import MODULE, Candidate


@dataclass(frozen=True)
class Runtime:
    """What runs an artifact without this project."""

    title: str
    template: str
    """Of run.py, in the folder `templates`."""
    distributions: tuple[str, ...]
    """Those that run.py imports; onnxruntime goes by another name on CUDA."""


OF_TORCH = ("torch", "transformers", "safetensors", "numpy")
#: By backend.
RUNTIMES = {
    "onnx": Runtime("ONNX Runtime", "onnx", ("onnxruntime", "numpy")),
    "openvino": Runtime("OpenVINO", "openvino", ("openvino", "numpy")),
    "torchscript": Runtime("TorchScript", "torchscript", ("torch", "numpy")),
    "eager": Runtime("PyTorch", "checkpoint", OF_TORCH),
    "compile": Runtime("torch.compile", "checkpoint", OF_TORCH),
}
#: Libraries of NVIDIA's that onnxruntime-gpu loads, if the run's environment had them as packages.
CUDA_LIBRARIES = re.compile(r"nvidia-(cublas|cuda-nvrtc|cuda-runtime|cudnn|cufft|curand|nvjitlink)(-cu\d+)?")
#: Variants that need more than run.py has: libraries of their own, or addresses that stay.
NOT_CARRIED = ("onnx:tensorrt", "onnx:cuda-graphs", "onnx:fused-cuda-graphs")
#: Of what run.py loads and hands out.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}
#: OpenVINO's names for them.
COMPUTES_IN = {"fp32": "f32", "bf16": "bf16"}
#: Shapes that torch.compile may hold in a bundle's process before it refuses another.
MOST_COMPILED_SHAPES = 64


def check(candidate: Candidate, run: Run) -> None:
    """Raise UserError if no bundle can carry `candidate`, with what to choose in its place."""
    if run.options.tf32 and candidate.backend in RUNTIMES:
        raise UserError("the run measured with --tf32, which a bundle's run.py does not set; measure again without it")
    if reason := _reason_against(candidate, run):
        raise UserError(f"{candidate.label} {reason}")


def _reason_against(candidate: Candidate, run: Run) -> str:
    """Why no bundle can carry `candidate`, and what to choose; "" if one can."""
    label, backend, precision = candidate.label, candidate.backend, candidate.precision
    if backend == "aoti":
        return "cannot be bundled: it was compiled for this machine's processor; --choose torchscript or onnx"
    if backend not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        return f"is a backend of another package, whose code a bundle does not carry; --choose one of {known}"
    if precision not in DTYPES or candidate.variant not in backends.load_class(backend).spec.variants:
        return "is of no variant or precision that this bench knows; measure again with it"
    if candidate.environment or candidate.place in dict(parse_pythons(run.options.python)):
        where = "ran in an environment of its own, whose libraries a bundle's run.py would not find"
        return f"{where}; --choose {backend} of a run in this one"
    if backend in ("eager", "compile") and run.model.weights == MODULE:
        what = f"runs the code in {run.model.name!r}, which a bundle does not carry"
        return f"{what}; --choose onnx or torchscript, which need none of it"
    if label in ("eager:math", "torchscript:optimized"):
        return f"is for comparison and a bundle does not set it; --choose {backend}"
    if candidate.variant == "grad":
        return "shows what autograd costs and is not for serving; --choose eager"
    if label in NOT_CARRIED:
        return "cannot be bundled: run.py does not set it up; --choose onnx"
    if backend == "onnx" and precision == "bf16":
        return "bf16 cannot be bundled: NumPy has no bf16; --choose fp16, or torchscript/bf16"
    if backend == "openvino" and precision not in COMPUTES_IN:
        what = f"{precision} cannot be bundled: its weights are rounded by bench's own code at load"
        return f"{what}; --choose openvino/fp32 or openvino/bf16"
    return ""


def requirements(candidate: Candidate, device: str, versions: Mapping[str, str]) -> dict[str, str]:
    """Distribution -> exact version of what run.py imports; raises UserError if the run does not say one."""
    found = {}
    for name in RUNTIMES[candidate.backend].distributions:
        on_device = "onnxruntime-gpu" if (name, device) == ("onnxruntime", "cuda") else name
        if not (version := versions.get(on_device) or versions.get(name)):
            raise UserError(f"the run does not say the version of {on_device}; measure again with this bench")
        found[on_device] = version
    if "onnxruntime-gpu" in found:
        found |= {name: version for name, version in versions.items() if CUDA_LIBRARIES.fullmatch(name)}
    for name, version in found.items():
        _check_version(name, version)
    return found


def _check_version(name: str, version: Any) -> None:
    """Raise UserError for what PEP 440 has no version for: pip would read more than a version in it."""
    from packaging.version import InvalidVersion, Version

    try:
        is_sound = isinstance(version, str) and version == version.strip() and bool(Version(version))
    except InvalidVersion:
        is_sound = False
    if not is_sound:
        raise UserError(
            f"the run says {str(version)[:60]!r} as the version of {name}, which is no version; measure again"
        )


def requirements_text(pins: Mapping[str, str], python: str) -> str:
    """requirements.txt; a local version, which no public index has, is a remark beside the public one."""
    if not re.fullmatch(r"[\w.+-]{1,40}", python):
        raise UserError(f"the run says {python[:60]!r} as the version of Python, which is no version; measure again")
    lines = [f"# What run.py imports, as it was measured under Python {python}."]
    for name, version in pins.items():
        public, plus, _ = version.partition("+")
        lines.append(f"{name}=={public}" + (f"  # measured as {version}" if plus else ""))
    return "\n".join(lines) + "\n"


def run_text(
    candidate: Candidate, run: Run, metadata: Mapping[str, Any], inputs: Sequence[str], artifact_folder: str
) -> str:
    """run.py for an artifact with the exporter's `metadata`, which lies in `artifact_folder` of the bundle."""
    device, runtime, is_cuda = run.options.kind, RUNTIMES[candidate.backend], run.options.kind == "cuda"
    on_cuda = '[("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"}), "CPUExecutionProvider"]'
    values = {
        "title": f"{plain(run.model.name)} ({candidate.precision}) on {runtime.title}, {device}",
        "version": __version__,
        "folder": artifact_folder,
        "threads": run.options.settled_threads,
        "device": device,
        "inputs": _listed(inputs),
        "outputs": _listed(metadata["outputs"]),
        "example": f'{{"{plain(inputs[0])}": array{", …" if len(inputs) > 1 else ""}}}',
        "provider": "CUDAExecutionProvider" if is_cuda else "CPUExecutionProvider",
        "providers": on_cuda if is_cuda else '["CPUExecutionProvider"]',
        "preload": "    ort.preload_dlls()\n" if is_cuda else "",
        "class_name": _identifier(metadata.get("class", "")),
        "dtype": DTYPES[candidate.precision],
        "computes_in": COMPUTES_IN.get(candidate.precision, ""),
        **_compilation(candidate, f'model.to("{device}").eval().requires_grad_(False)'),
    }
    is_static = (candidate.backend, candidate.variant) == ("openvino", "static")
    name = f"{runtime.template}_static.template" if is_static else f"{runtime.template}.template"
    file = resources.files(__package__) / "templates" / name
    return string.Template(file.read_text(encoding="utf-8")).substitute(values)


def _identifier(name: str) -> str:
    """The name of a class as it stands in run.py; raises UserError for what would be more than a name there."""
    if name and not name.isidentifier():
        raise UserError(f"the artifact says that {name[:60]!r} is its class, which is no name; export it again")
    return name


def _listed(names: Sequence[str]) -> str:
    """Names as a Python list, in double quotes if they hold none, as ruff wants them."""
    return "[" + ", ".join(repr(name) if '"' in name else f'"{repr(name)[1:-1]}"' for name in names) + "]"


def _compilation(candidate: Candidate, model: str) -> dict[str, str]:
    """What `load` of run.py returns of `model`, and the imports and settings by which it compiles as measured."""
    if candidate.backend != "compile":
        return {"imports": "", "settings": "", "compiled": model}
    options = backends.load_class(candidate.backend).spec.variants[candidate.variant]
    modules, lines = (
        ["torch._dynamo"],
        [
            "torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would run as plain eager",
            f"torch._dynamo.config.recompile_limit = {MOST_COMPILED_SHAPES}  # each shape is compiled: pad to few",
        ],
    )
    if options.get("freezing"):
        modules.append("torch._inductor.config")
        lines.append("torch._inductor.config.freezing = True")
    mode = f', mode="{options["mode"]}"' if options.get("mode") else ""
    return {
        "imports": "".join(f"import {module}\n" for module in modules),
        "settings": "".join(f"    {line}\n" for line in lines),
        "compiled": f"torch.compile({model}, dynamic={bool(options.get('dynamic'))}{mode})",
    }
