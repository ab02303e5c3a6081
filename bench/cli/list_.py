"""`bench list`: what is there, what is missing, and the command that would add it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Show models, backends, devices and presets: what is there, and what would add the rest.", no_args_is_help=True
)


@app.command()
def models() -> None:
    """Models that can be asked for by name."""
    from exporters.sources import ARCHITECTURES, resolve

    for name, architecture in ARCHITECTURES.items():
        print(f"{name:<12} {architecture.description}")
        print(f"{'':<12} weights: {resolve(name).origin}")
    print("\nAlso: a folder that save_pretrained wrote, or a Hub id (--weights pretrained may download it).")


@app.command()
def backends(
    artifacts: Annotated[Path, typer.Option(help="Folder whose environments are looked at.")] = Path("artifacts"),
) -> None:
    """Runtimes, their variants, and where they run."""
    import backends as registry
    from bench.process.environments.stored import flaw, read

    for name, home in registry.names().items():
        try:
            backend = registry.load_class(name)
        except Exception as error:  # a plugin may raise anything
            print(f"{name:<12} broken: {home} cannot be loaded ({error}); reinstall the package it comes from")
            continue
        spec = backend.spec
        variants = ", ".join(f"{name}:{variant}" for variant in spec.variants if variant != "default")
        environment = read(artifacts, name)
        if environment is not None:
            told = (library for library in spec.requires if library in environment.versions)
            versions = ", ".join(f"{library} {environment.versions[library]}" for library in told)
            print(f"{name:<12} in an environment of its own: {versions}")
        elif wrong := flaw(artifacts, name):
            print(f"{name:<12} its environment {wrong}; run: bench env create {name}")
        elif missing := spec.missing():
            print(f"{name:<12} missing {', '.join(missing)}; add it with: {spec.install_command()}")
        else:
            versions = ", ".join(f"{library} {version}" for library, version in spec.versions().items())
            print(f"{name:<12} {versions or 'built in'}")
        for device, precisions in spec.precisions.items():
            is_asked = environment is None and not spec.missing()
            reason = backend.supports("default", device, precisions[0]) if is_asked else None
            print(f"{'':<12} {device}: {reason or ', '.join(precisions)}")
        if variants:
            print(f"{'':<12} variants: {variants}")


@app.command()
def devices() -> None:
    """CPU and GPUs, and what stands between them and a measurement."""
    from backends.base import torch_cuda_version
    from bench import machine

    memory = machine.available_memory_bytes() / 2**30
    print(f"cpu   {machine.cpu_name()}, {machine.usable_cpus()} CPUs usable, {memory:.1f} GiB free")
    gpus = machine.gpus()
    for index, gpu in enumerate(gpus):
        print(f"cuda  {index}: {gpu['name']}, driver {gpu['driver']}, {gpu['free_bytes'] / 2**30:.1f} GiB free")
    if not gpus:
        print("cuda  no NVIDIA GPU answers on this machine")
    elif torch_cuda_version() is None:
        print("cuda  unusable: torch is a CPU build; install torch's CUDA build to use it")


@app.command()
def presets() -> None:
    """Grids by name, for `bench compare --preset`."""
    from bench.workloads import presets as registry
    from bench.workloads.published import of_model

    for name in registry.names():
        preset = registry.load(name)
        product = len(preset.batches) * len(preset.lengths) == len(preset.shapes)
        sizes = (
            f"batches {_listed(preset.batches)}; lengths {_listed(preset.lengths)}"
            if product
            else " ".join(map(str, preset.shapes))
        )
        extras = [word for word, is_on in (("grad", preset.grad), ("naive timer", preset.naive_timer)) if is_on]
        what = f"{preset.model}: {_listed(preset.backends)}; {_listed(preset.precisions)}; {preset.rounds} rounds"
        lines = [preset.title, "; ".join([what, *extras]), sizes, f"from: {preset.source}"]
        if preset.figures:
            rows = of_model(preset.figures, preset.model, preset.shapes).get("rows", [])
            lines.append(f"beside ours: {len(rows)} published rows, {preset.figures['card']['name']}")
        for index, line in enumerate(lines):
            print(f"{name if index == 0 else '':<18} {line}")
    print("\nAlso: a .toml file of your own with the same keys.")


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
