"""The files of a bundle: written aside in one folder, synced, and renamed into place whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.bundle import manifest
from bench.bundle.samples import folder_of, timed_folder
from bench.errors import BenchError, UserError
from bench.parity.judging import inputs_file
from bench.run.preparation import Preparation
from bench.spec import Shape
from exporters.store import MANIFEST, Artifact

#: Between a bundle's name and the process that is writing it.
ASIDE = ".making-"
TOKENIZER_FOLDER = "tokenizer"
#: What tokenizer libraries read, beside tokenizer.json.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip


def check_output(folder: Path) -> None:
    """Raise UserError if no bundle could be written to `folder`."""
    name = f"--output {str(folder)!r}"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{name} is no folder; give a new one")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{name} is not empty, and nothing is overwritten; give a new folder")
    if folder.is_dir() and folder.samefile(Path.cwd()):
        raise UserError(f"{name} is the folder that you are in, and would be replaced; give a new one")
    if not folder.parent.is_dir() or not os.access(folder.parent, os.W_OK):
        raise UserError(f"{name} cannot be made: the folder that it is to be in is missing or not yours; make it first")


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that becomes it at the end of the block, or is gone with all that is in it.

    Raises BenchError if it cannot be written, as on a full disk.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve would follow a link, and `.` has no name
    _remove_abandoned(folder)
    place = folder.with_name(f".{folder.name}{ASIDE}{os.getpid()}")
    try:
        place.mkdir()
        yield place
        _sync(place)
        place.rename(folder)
    except OSError as error:
        cause = error.strerror or error
        raise BenchError(
            f"bundle {folder.name!r} cannot be written ({cause}); free some space or give another --output"
        ) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left of a bundle of this name."""
    for place in folder.parent.glob(f".{folder.name}{ASIDE}*"):
        try:
            os.kill(int(place.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(place, ignore_errors=True)
        except (ValueError, OverflowError, PermissionError):
            continue


def _sync(place: Path) -> None:
    """Wait until every file of the folder is on disk."""
    for name, _ in manifest.files_under(place):
        with (place / name).open("rb") as opened:
            os.fsync(opened.fileno())


def copy_artifact(artifact: Artifact, place: Path) -> None:
    """Copy an artifact's files and its manifest into `place`; raises BenchError for a copy that is not the same."""
    place.mkdir(parents=True)
    for name in (*artifact.files, MANIFEST):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, place / name)
    found = manifest.checksums(place)
    for name, entry in artifact.files.items():
        if found[name].sha256 != entry["sha256"]:
            raise BenchError(f"{name} of artifact {artifact.path.name} was damaged while it was copied; deploy again")


def copy_samples(prepared: Preparation, place: Path) -> None:
    """Copy the reference's and eager's outputs of every shape of a run of parity, with their inputs."""
    (candidate,) = prepared.run.candidates
    for point in prepared.workload.points():
        shape = Shape(point.batch, point.length)
        pair = prepared.references.pair(candidate.precision, str(point))
        if isinstance(pair, str):
            raise BenchError(f"{pair}, so the bundle could not prove itself")
        for artifact, whose in zip(pair, ("reference", "eager"), strict=True):
            copy_artifact(artifact, place / folder_of(shape, whose))


def copy_timed_inputs(stored: Artifact | str | None, shape: Shape, place: Path) -> None:
    """Copy the inputs that a shape was timed on, of a model that makes them itself; raises BenchError without them."""
    if not isinstance(stored, Artifact):
        raise BenchError(f"the inputs of {shape} are not there ({stored}), so its time could not be measured again")
    folder = place / timed_folder(shape)
    folder.mkdir(parents=True)
    shutil.copyfile(inputs_file(stored.path, "timed"), inputs_file(folder, "timed"))


def copy_tokenizer(folder: Path | None, place: Path) -> None:
    """Copy the tokenizer's files of a model's folder; nothing if it has none."""
    for name in TOKENIZER_FILES if folder else ():
        if folder is not None and (folder / name).is_file():
            (place / TOKENIZER_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(folder / name, place / TOKENIZER_FOLDER / name)
