"""The user's own module as a model's source: a factory in a file, or a module in memory. Imports nothing heavy.

The file is read here and never run: that is for the processes that export and compute (exporters/modules.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from exporters.errors import ModelError
from exporters.sources import BYTES_PER_ELEMENT, MODULE, ModelSource
from exporters.store import file_checksum, recipe_key

#: `path/to/file.py:factory`.
FACTORY = re.compile(r"(?P<file>.+\.py):(?P<factory>[^\W\d]\w*)")
#: `Class@checksum`, the name that a module in memory gets.
IN_MEMORY = re.compile(r"[^\W\d]\w*@(?P<checksum>[0-9a-f]{16})")
#: Distributions that decide what a module computes, whatever it imports.
LIBRARIES = ("torch", "safetensors")


@dataclass(frozen=True)
class ModuleSource(ModelSource):
    """A factory in a file, or a module in memory; what it takes and gives is known once its checkpoint is made."""

    file: str = ""
    """Absolute path of the factory's file; empty for a module in memory."""
    factory: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the file and of the modules of its own folder that it imports, by path from that folder."""
    imported: tuple[str, ...] = ()
    """Installed distributions that these files import."""
    checksum: str = ""
    """Of a module in memory."""
    pickled: str = ""
    """Folder that holds a module in memory, until its checkpoint is made."""
    traits: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of its checkpoint, once that is made."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.traits["inputs"])

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.traits["outputs"])

    @property
    def makes_inputs(self) -> bool:
        return bool(self.traits["makes_inputs"])

    @property
    def whole_outputs(self) -> tuple[str, ...]:
        return tuple(self.traits["whole_outputs"])

    @property
    def output_width(self) -> int:
        return int(self.traits["output_width"])

    @property
    def width(self) -> int:
        return self.output_width

    @property
    def is_decoder(self) -> bool:
        """True where it offers a step; without one nothing says that it looks back alone."""
        return bool(self.traits["keeps_keys_and_values"])

    @property
    def keeps_keys_and_values(self) -> bool:
        return self.is_decoder

    @property
    def keys_and_values(self) -> None:
        """Of what its cache is made is not known by formula."""
        return None

    @property
    def libraries(self) -> tuple[str, ...]:
        return tuple(sorted({*LIBRARIES, *self.imported, *(() if self.file else ("cloudpickle",))}))

    def flops(self, batch: int, length: int) -> int:
        """Rough floating-point operations of one pass: two a parameter and token."""
        return 2 * int(self.traits["parameters"]) * batch * length

    def key_value_bytes(self, length: int, precision: str) -> int | None:
        """Bytes that its cache grows by over `length` tokens of one sequence; None where it offers no step."""
        elements = self.traits["cache_elements_per_token"]
        return None if elements is None else elements * length * BYTES_PER_ELEMENT[precision]

    def export_options(self) -> list[str]:
        return [*super().export_options(), *([f"--pickled={self.pickled}"] if self.pickled else [])]

    def settled(self, metadata: Mapping[str, Any]) -> ModelSource:
        return replace(
            self,
            traits=metadata,
            task=metadata["task"],
            vocab_size=metadata["vocab_size"],
            positions=metadata["positions"],
            pad_token_id=metadata["pad_token_id"],
        )

    def weights_checksum(self) -> str:
        """Of the code and of the weights that it made; a factory may draw others every time."""
        return recipe_key(self.recipe() | {"tensors": self.traits["tensors"]})

    def place(self) -> dict[str, Any]:
        """The file's own place: its factory may read what lies beside it."""
        return {"file": self.file} if self.file else {}

    def recipe(self) -> dict[str, Any]:
        if not self.file:
            return {"weights": MODULE, "in_memory": self.checksum}
        return {
            "weights": MODULE,
            "file": Path(self.file).name,
            "factory": self.factory,
            "checksums": dict(self.checksums),
            "seed": self.seed,
        }


def is_factory(name: str) -> bool:
    """True for `file.py:factory`."""
    return FACTORY.fullmatch(name) is not None


def resolve(name: str, *, weights: str, task: str, seed: int) -> ModuleSource:
    """The module that `file.py:factory` makes, or the one in memory that is known as `Class@checksum`.

    Raises ModelError for a file that is missing or is not Python.
    """
    if weights not in ("auto", MODULE):
        raise ModelError(f"--weights {weights} is not for a module of your own, whose factory makes them; leave it out")
    if found := IN_MEMORY.fullmatch(name):
        return in_memory(name, found["checksum"], task)
    parts = FACTORY.fullmatch(name)
    if parts is None:
        raise ModelError(f"--module {name!r} names no factory; write path/to/file.py:FUNCTION")
    path = Path(parts["file"])
    if not path.is_file():
        raise ModelError(f"module file {parts['file']!r} does not exist; write path/to/file.py:FUNCTION")
    path = path.resolve()
    files, imported = sources_of(path)
    return ModuleSource(
        **_unsettled(name, task, f"module {name} (seed {seed})", seed),
        file=str(path),
        factory=parts["factory"],
        checksums={str(file.relative_to(path.parent)): file_checksum(file) for file in files},
        imported=imported,
    )


def in_memory(name: str, checksum: str, task: str, pickled: str = "") -> ModuleSource:
    """A module that was handed over in memory, by the checksum of what it consists of."""
    return ModuleSource(
        **_unsettled(name, task, f"module {name}, handed over in memory", 0), checksum=checksum, pickled=pickled
    )


def _unsettled(name: str, task: str, origin: str, seed: int) -> dict[str, Any]:
    """The fields of every source, with those empty that the checkpoint tells."""
    return {
        "name": name, "task": task, "weights": MODULE, "origin": origin, "config": {}, "folder": None, "seed": seed,
        "vocab_size": 0, "positions": None, "pad_token_id": 0,
    }  # fmt: skip


def sources_of(file: Path) -> tuple[list[Path], tuple[str, ...]]:
    """`file` and all modules of its own folder that it imports, directly or not; and the distributions they import.

    Found by reading import statements, so what is imported by a computed name is not seen. Raises ModelError for a
    file that is not Python.
    """
    found: dict[Path, None] = {file: None}
    imported = set()
    for path in _growing(found):
        for name in _imports(path, file.parent):
            local = list(_local_files(name, file.parent))
            found |= dict.fromkeys(local)
            if not local:
                imported.add(name.split(".")[0])
    return list(found), tuple(sorted(filter(_is_distribution, imported)))


def _growing(found: Mapping[Path, None]) -> Iterator[Path]:
    """The keys of `found`, those included that are added meanwhile."""
    done: set[Path] = set()
    while left := [path for path in found if path not in done]:
        done.add(left[0])
        yield left[0]


def _imports(path: Path, folder: Path) -> Iterator[str]:
    """Dotted names that a file imports, relative ones from `folder`; names of values may be among them."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        cause = error.msg if isinstance(error, SyntaxError) else error
        raise ModelError(f"module file {path.name!r} is not Python ({cause}{line}); correct it") from None
    except OSError as error:
        raise ModelError(f"module file {path.name!r} cannot be read ({error.strerror}); make it yours") from None
    package = path.parent.relative_to(folder).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _local_files(name: str, folder: Path) -> Iterator[Path]:
    """Files of `folder` that importing the dotted `name` runs."""
    place = folder
    for part in name.split("."):
        for candidate in (place / part / "__init__.py", place / f"{part}.py"):
            if candidate.is_file():
                yield candidate
                break
        place /= part


def _is_distribution(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
