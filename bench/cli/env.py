"""`bench env`: environments for backends that cannot live beside the others."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from bench import columns
from bench.cli.streams import stopping, tell

app = typer.Typer(
    help="Make, list or remove environments of backends that cannot live beside the others.", no_args_is_help=True
)

Root = Annotated[Path, typer.Option("--artifacts", help="Folder for exported models, runs and environments.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A backend, or backend@name for one more of it.")]
_DEFAULT = Path("artifacts")
#: Distributions that are told first of an environment's many.
_TOLD = ("python", "torch", "transformers", "optimum", "optimum-onnx", "onnxruntime", "onnxruntime-gpu", "openvino")


@app.command()
def create(
    name: Name,
    requirements: Annotated[
        Path | None, typer.Option(help="File of pip's with pinned requirements. [default: the backend's own]")
    ] = None,
    artifacts: Root = _DEFAULT,
) -> None:
    """Make an environment; its backend runs there from then on, with no flag."""
    from bench.process.environments.making import create as make

    with stopping("nothing of the environment was kept"):
        made = make(artifacts, name, requirements, tell)
    print(f"{made.place}: {_versions(dict(made.versions))}")


@app.command("list")
def list_environments(artifacts: Root = _DEFAULT) -> None:
    """Every environment: its backend, versions, size, and whether it is sound."""
    from bench.process.environments.making import size_bytes
    from bench.process.environments.stored import flaw, folder_of, places, read

    found = places(artifacts)
    for place in found:
        environment = read(artifacts, place)
        size = columns.size(size_bytes(folder_of(artifacts, place)))
        state = "sound" if environment else f"{flaw(artifacts, place)}; run: bench env create {place}"
        print(f"{place:<16} {place.partition('@')[0]:<12} {size:>9}  {state}")
        if environment is not None:
            lines = textwrap.wrap(_versions(dict(environment.versions)), width=63)
            print("\n".join(f"{'':<16} {line}" for line in lines))
    print(f"{len(found)} environment{'s'[: len(found) != 1]} in {artifacts / 'environments'}")


@app.command()
def remove(name: Name, artifacts: Root = _DEFAULT) -> None:
    """Delete an environment; its backend runs beside the others again, where it can."""
    from bench.process.environments.making import remove as delete

    delete(artifacts, name)
    print(f"removed {name}")


def _versions(versions: dict[str, str]) -> str:
    told = [f"{name} {versions[name]}" for name in _TOLD if name in versions]
    return ", ".join(told) + f" and {len(versions) - len(told)} more"
