"""A model as a command takes it: a name, a folder, a factory in a file, or a module in memory.

What only a built module tells (its vocabulary, positions, outputs) is known of every source that leaves here: the
checkpoint of the user's own module is made first, by the exporting process, since this one runs no code of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import Say, UserError
from bench.options import TIMEOUT_SECONDS
from bench.parity.reference import drop_damaged
from bench.process.export import Exporting
from bench.run.preparation import exported
from exporters import checkpoint, module_source, pickled, sources, tokenizer
from exporters.store import ArtifactStore

if TYPE_CHECKING:
    from bench.run.record import Run

#: `make_inputs(batch, length, seed)` -> name to array or tensor, batch first, in the order of forward's arguments.
MakeInputs = Callable[[int, int, int], Mapping[str, Any]]


def find_source(
    model: Any,
    store: ArtifactStore,
    *,
    make_inputs: MakeInputs | None = None,
    weights: str = "auto",
    task: str = "base",
    seed: int = 0,
    threads: int = 1,
    say: Say = lambda line: None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> sources.ModelSource:
    """The source of `model`: what `sources.resolve` takes, or a torch.nn.Module with `make_inputs` where it has one.

    Raises ModelError or UserError, and BenchError when the store cannot be written.
    """
    if isinstance(model, str):
        if make_inputs is not None:
            raise UserError("make_inputs goes with a module in memory; let the factory return (module, make_inputs)")
        return introduced(
            sources.resolve(model, weights=weights, task=task, seed=seed), store, threads, say, timeout_seconds
        )
    if not callable(getattr(model, "state_dict", None)) or isinstance(model, type):
        raise UserError(f"{type(model).__name__} is no model; give a name, a folder, file.py:factory or a module")
    if make_inputs is not None and not callable(make_inputs):
        raise UserError(f"make_inputs is {type(make_inputs).__name__}; give a function of batch, length and seed")
    store.prepare()
    with store.aside("module") as folder:
        checksum = pickled.save(model, make_inputs, folder)
        name = f"{type(model).__name__}@{checksum}"
        source = module_source.in_memory(name, checksum, task, str(folder))
        return introduced(source, store, threads, say, timeout_seconds)


def named_module(run: Run, given: str | None) -> str:
    """The model of a `run` that was read from a file, by the name that finds it again: `given` if that is a module.

    Raises UserError for a module's file that only the run names: reading it must not import it.
    """
    recorded = run.options.module or run.model.name
    if given is not None:
        return given
    if module_source.is_factory(recorded):
        raise UserError(
            f"{str(run.path)!r} is of the code in {recorded!r}, which is not imported because a file names it; "
            f"if it is yours, give it again: --module {recorded}"
        )
    return recorded


def introduced(
    source: sources.ModelSource, store: ArtifactStore, threads: int, say: Say, timeout_seconds: float
) -> sources.ModelSource:
    """`source` with what its checkpoint tells, which is made where it is the user's own module and is missing."""
    if source.weights != sources.MODULE:
        return source
    store.prepare()
    with store.in_use(say):
        recipe = checkpoint.recipe(source)
        drop_damaged(store, [recipe], say)
        with closing(Exporting(store.root, threads)) as exporting:
            found = exported(store, recipe, source.export_options(), exporting, say, timeout_seconds)
            return source.settled(found.metadata)


def tokenizer_of(source: sources.ModelSource, given: str | Path | None) -> Path | None:
    """The tokenizer file that the user named, or the model's own; None if there is none."""
    if given is None:
        return tokenizer.find(source.folder) if source.folder else None
    if (found := tokenizer.find(given)) is None:
        raise UserError(f"--tokenizer {str(given)!r} is no tokenizer.json and has none; give a model folder with one")
    return found


def notes_on(source: sources.ModelSource) -> list[str]:
    """What a reader must know of how the user's own module is judged."""
    if source.makes_inputs:
        return ["inputs come from the module's own make_inputs, so nothing is masked and every position is judged"]
    if "attention_mask" not in source.inputs:
        return ["the module takes no attention_mask, so there are no padded cases and every position is judged"]
    return []
