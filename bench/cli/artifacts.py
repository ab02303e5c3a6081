"""`bench artifacts`: look after the store of exported models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import columns
from bench.cli.options import Artifacts

app = typer.Typer(help="List, verify or prune the exported models.", no_args_is_help=True)

_DEFAULT = Path("artifacts")


@app.command("list")
def list_artifacts(artifacts: Artifacts = _DEFAULT) -> None:
    """Every artifact in the store, least recently used first, and what else lies beside it."""
    from bench import pruning
    from exporters.store import ArtifactStore

    store = ArtifactStore(artifacts)
    total = 0
    for path in store.paths():
        artifact = store.read(path)
        if artifact is None:
            print(f"{path.name:<30} damaged: {store.damage(path)}")
            continue
        total += artifact.bytes
        recipe = artifact.recipe
        what = [str(artifact.metadata.get("model", "")), *(str(recipe.get(one, "")) for one in ("precision", "device"))]
        what += [_shape(recipe.get("inputs", {})), f"of {recipe['checkpoint']}" if "checkpoint" in recipe else ""]
        print(f"{path.name:<30} {columns.size(artifact.bytes):>10}  {' '.join(filter(None, what))}")
    print(f"{len(store.paths())} artifacts, {columns.size(total)} in {store.folder}")
    if compiled := sum(entry.bytes for entry in pruning.compiled(artifacts)):
        print(f"compiled code, {columns.size(compiled)} in {artifacts / 'cache'}")
    for name, size in pruning.untouched(artifacts).items():
        print(f"{name}, {columns.size(size)} ({pruning.UNTOUCHED[name]})")


@app.command()
def verify(artifacts: Artifacts = _DEFAULT) -> None:
    """Check every file against its checksum; exit code 3 when one fails."""
    from exporters.store import ArtifactStore

    store = ArtifactStore(artifacts)
    damages = store.damages(store.paths())
    for path, damage in damages.items():
        print(f"{path.name:<30} {'damaged: ' + damage if damage else 'sound'}")
    if any(damages.values()):
        print("Damaged artifacts are made again when they are next needed; `bench artifacts prune` removes them now.")
        raise typer.Exit(3)
    print(f"{len(damages)} artifacts, all sound")


@app.command()
def prune(
    artifacts: Artifacts = _DEFAULT,
    keep: Annotated[
        str | None, typer.Option(help="Size to keep, e.g. 10GB or 10GiB: what was used longest ago goes first.")
    ] = None,
) -> None:
    """Remove what is damaged or left over; with --keep, also what was used longest ago, compiled code included."""
    from bench import pruning
    from bench.errors import BenchError, UserError
    from bench.spec import parse_size
    from exporters.store import ArtifactStore

    limit = None if keep is None else parse_size(keep, "--keep")
    store = ArtifactStore(artifacts)
    if users := store.users():
        raise UserError(f"a run is using {store.folder} (process {users[0]}); prune when it has ended")
    done = pruning.prune(store, limit)
    for line in done.removed:
        print(f"removed {line}")
    print(f"{columns.size(done.kept_bytes)} kept")
    for name, size in pruning.untouched(artifacts).items():
        print(f"not touched: {name}, {columns.size(size)} ({pruning.UNTOUCHED[name]})")
    if done.left:
        what = f"{columns.count(len(done.left), 'entry' if len(done.left) == 1 else 'entrie')} of {str(artifacts)!r}"
        raise BenchError(
            f"{what} cannot be removed (first {done.left[0].name!r}); give this user write permission to the folder"
        )


def _shape(inputs: Mapping[str, Any]) -> str:
    """What a reference's inputs are: a shape, or single sequences of a length."""
    plan = inputs.get("inputs", inputs)
    return f"{plan['batch']}×{plan['length']}" if {"batch", "length"} <= set(plan) else ""
