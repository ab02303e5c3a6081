"""`bench list`: what is there, what is missing, and the command that would add it."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Show models, backends and devices: what is there, and what would add the rest.", no_args_is_help=True
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
def backends() -> None:
    """Runtimes, their variants, and where they run."""
    import backends as registry

    for name, home in registry.names().items():
        try:
            backend = registry.load_class(name)
        except Exception as error:  # a plugin may raise anything
            print(f"{name:<12} broken: {home} cannot be loaded ({error}); reinstall the package it comes from")
            continue
        variants = ", ".join(f"{name}:{variant}" for variant in backend.variants if variant != "default")
        if missing := backend.missing():
            print(f"{name:<12} missing {', '.join(missing)}; add it with: {backend.install_command()}")
        else:
            versions = ", ".join(f"{library} {version}" for library, version in backend.versions().items())
            print(f"{name:<12} {versions or 'built in'}")
        for device, precisions in backend.precisions.items():
            reason = None if backend.missing() else backend.supports(device, precisions[0])
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
