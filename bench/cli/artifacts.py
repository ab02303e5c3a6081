"""`bench artifacts`: look after the store of exported models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, verify or prune the exported models.", no_args_is_help=True)

Root = Annotated[Path, typer.Option("--artifacts", help="Folder for exported models and runs.")]
_DEFAULT = Path("artifacts")


@app.command("list")
def list_artifacts(artifacts: Root = _DEFAULT) -> None:
    """Every artifact in the store, least recently used first."""
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
        what = [
            str(artifact.metadata.get("model", "")),
            str(recipe.get("precision", "")),
            str(recipe.get("device", "")),
        ]
        if "inputs" in recipe:
            what.append(f"{recipe['inputs']['batch']}×{recipe['inputs']['length']}")
        what += [f"of {recipe['checkpoint']}"] if "checkpoint" in recipe else []
        print(f"{path.name:<30} {artifact.bytes / 1e6:>9.1f} MB  {' '.join(filter(None, what))}")
    print(f"{len(store.paths())} artifacts, {total / 1e9:.2f} GB in {store.folder}")


@app.command()
def verify(artifacts: Root = _DEFAULT) -> None:
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
    artifacts: Root = _DEFAULT,
    keep: Annotated[
        str | None, typer.Option(help="Size to keep, e.g. 10GB: least recently used artifacts go first.")
    ] = None,
) -> None:
    """Remove damaged artifacts and leftovers of killed processes; with --keep, also the least recently used."""
    from bench.errors import UserError
    from bench.spec import parse_size
    from exporters.store import ArtifactStore

    limit = None if keep is None else parse_size(keep, "--keep")
    store = ArtifactStore(artifacts)
    if users := store.users():
        raise UserError(f"a run is using {store.folder} (process {users[0]}); prune when it has ended")
    for path in store.leftovers():
        store.remove(path)
        print(f"removed {path.name}: left over by a killed process")
    sound = []
    for path, damage in store.damages(store.paths()).items():
        if damage:
            store.remove(path)
            print(f"removed {path.name}: {damage}")
        elif (artifact := store.read(path)) is not None:
            sound.append(artifact)
    total = sum(artifact.bytes for artifact in sound)
    for artifact in sound:
        if limit is None or total <= limit:
            break
        store.remove(artifact.path)
        total -= artifact.bytes
        print(f"removed {artifact.path.name}: least recently used")
    print(f"{total / 1e9:.2f} GB kept")
