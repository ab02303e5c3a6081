"""The runtimes that a bundle can carry: what each needs to run alone, and why the others cannot be carried."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import backends
from bench import __version__
from bench.bundle.selection import plain
from bench.errors import UserError
from bench.process.environments.stored import parse_pythons
from bench.run.record import Run
from bench.spec import MODULE, Candidate

#: Template of run.py by backend, and by variant if that needs one of its own.
TEMPLATES = {
    "onnx": "onnx.template",
    "openvino": "openvino.template",
    "openvino:static": "openvino_static.template",
    "torchscript": "torchscript.template",
    "eager": "checkpoint.template",
    "compile": "checkpoint.template",
}
#: Distributions that run.py imports, by backend; onnxruntime goes by another name on CUDA.
DISTRIBUTIONS = {
    "onnx": ("onnxruntime", "numpy"),
    "openvino": ("openvino", "numpy"),
    "torchscript": ("torch", "numpy"),
    "eager": ("torch", "transformers", "safetensors", "numpy"),
    "compile": ("torch", "transformers", "safetensors", "numpy"),
}
TITLES = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torchscript": "TorchScript",
    "eager": "PyTorch",
    "compile": "torch.compile",
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
    label, backend = candidate.label, candidate.backend
    if backend == "aoti":
        raise UserError(
            f"{label} cannot be bundled: it was compiled for this machine's processor; --choose torchscript or onnx"
        )
    if backend not in DISTRIBUTIONS:
        raise UserError(
            f"{label} is a backend of another package, whose code a bundle does not carry; "
            f"--choose one of {', '.join(DISTRIBUTIONS)}"
        )
    if run.options.tf32:
        raise UserError("the run measured with --tf32, which a bundle's run.py does not set; measure again without it")
    if candidate.environment or candidate.place in dict(parse_pythons(run.options.python)):
        raise UserError(
            f"{label} ran in an environment of its own, whose libraries a bundle's run.py would not find; "
            f"--choose {backend} of a run in this one"
        )
    if backend in ("eager", "compile") and run.model.weights == MODULE:
        raise UserError(
            f"{label} runs the code in {run.model.name!r}, which a bundle does not carry; "
            "--choose onnx or torchscript, which need none of it"
        )
    if candidate.label in ("eager:math", "torchscript:optimized"):
        raise UserError(f"{label} is for comparison and a bundle does not set it; --choose {backend}")
    if candidate.variant == "grad":
        raise UserError(f"{label} shows what autograd costs and is not for serving; --choose eager")
    if label in NOT_CARRIED:
        raise UserError(f"{label} cannot be bundled: run.py does not set it up; --choose onnx")
    if backend == "onnx" and candidate.precision == "bf16":
        raise UserError(f"{label} bf16 cannot be bundled: NumPy has no bf16; --choose fp16, or torchscript/bf16")
    if backend == "openvino" and candidate.precision not in COMPUTES_IN:
        raise UserError(
            f"{label} {candidate.precision} cannot be bundled: its weights are rounded by bench's own code at load; "
            "--choose openvino/fp32 or openvino/bf16"
        )


def requirements(candidate: Candidate, device: str, versions: Mapping[str, str]) -> dict[str, str]:
    """Distribution -> exact version of what run.py imports; raises UserError if the run does not say one."""
    found = {}
    for name in DISTRIBUTIONS[candidate.backend]:
        on_device = "onnxruntime-gpu" if (name, device) == ("onnxruntime", "cuda") else name
        if not (version := versions.get(on_device) or versions.get(name)):
            raise UserError(f"the run does not say the version of {on_device}; measure again with this bench")
        found[on_device] = version
    if "onnxruntime-gpu" in found:
        found |= {name: version for name, version in versions.items() if CUDA_LIBRARIES.fullmatch(name)}
    return found


def requirements_text(pins: Mapping[str, str], python: str) -> str:
    """requirements.txt; a local version, which no public index has, is a remark beside the public one."""
    lines = [f"# What run.py imports, as it was measured under Python {python}."]
    for name, version in pins.items():
        public, plus, _ = version.partition("+")
        lines.append(f"{name}=={public}" + (f"  # measured as {version}" if plus else ""))
    return "\n".join(lines) + "\n"


def run_text(
    candidate: Candidate, run: Run, metadata: Mapping[str, Any], inputs: Sequence[str], artifact_folder: str
) -> str:
    """run.py for an artifact with the exporter's `metadata`, which lies in `artifact_folder` of the bundle."""
    device, options = run.options.kind, _options(candidate)
    values = {
        "title": f"{plain(run.model.name)} ({candidate.precision}) on {TITLES[candidate.backend]}, {device}",
        "version": __version__,
        "folder": artifact_folder,
        "threads": run.options.settled_threads,
        "device": device,
        "inputs": _listed(inputs),
        "outputs": _listed(metadata["outputs"]),
        "example": f'{{"{plain(inputs[0])}": array{", …" if len(inputs) > 1 else ""}}}',
        "provider": "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider",
        "providers": _providers(device),
        "preload": "    ort.preload_dlls()\n" if device == "cuda" else "",
        "class_name": metadata.get("class", ""),
        "dtype": DTYPES[candidate.precision],
        "computes_in": COMPUTES_IN.get(candidate.precision, ""),
        "imports": _imports(candidate, options),
        "settings": _settings(candidate, options),
        "compiled": _compiled(candidate, options, f'model.to("{device}").eval().requires_grad_(False)'),
    }
    template = TEMPLATES.get(f"{candidate.backend}:{candidate.variant}", TEMPLATES[candidate.backend])
    file = resources.files(__package__) / "templates" / template
    return string.Template(file.read_text(encoding="utf-8")).substitute(values)


def _options(candidate: Candidate) -> Mapping[str, Any]:
    return backends.load_class(candidate.backend).spec.variants[candidate.variant]


def _listed(names: Sequence[str]) -> str:
    """Names as a Python list, in double quotes if they hold none, as ruff wants them."""
    return "[" + ", ".join(repr(name) if '"' in name else f'"{repr(name)[1:-1]}"' for name in names) + "]"


def _providers(device: str) -> str:
    if device == "cpu":
        return '["CPUExecutionProvider"]'
    return '[("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"}), "CPUExecutionProvider"]'


def _imports(candidate: Candidate, options: Mapping[str, Any]) -> str:
    """Modules whose settings `_settings` sets; nothing for other backends than torch.compile."""
    if candidate.backend != "compile":
        return ""
    return "import torch._dynamo\n" + ("import torch._inductor.config\n" if options.get("freezing") else "")


def _settings(candidate: Candidate, options: Mapping[str, Any]) -> str:
    """Statements by which torch.compile is set as it was measured; nothing for other backends."""
    if candidate.backend != "compile":
        return ""
    lines = [
        "    torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would run as plain eager",
        f"    torch._dynamo.config.recompile_limit = {MOST_COMPILED_SHAPES}  # each shape is compiled: pad to few",
    ]
    lines += ["    torch._inductor.config.freezing = True"] if options.get("freezing") else []
    return "\n".join(lines) + "\n"


def _compiled(candidate: Candidate, options: Mapping[str, Any], model: str) -> str:
    """What `load` returns of `model`."""
    if candidate.backend != "compile":
        return model
    mode = f', mode="{options["mode"]}"' if options.get("mode") else ""
    return f"torch.compile({model}, dynamic={bool(options.get('dynamic'))}{mode})"
