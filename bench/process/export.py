"""`python -m bench.process.export`: write artifacts into the store, in a process of its own.

It answers requests {"op": "export", "options": […]}, whose options are the words of a command line. One process makes
all: to import torch and transformers again would take longer than most exports.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exporters
from bench.process import channel
from exporters import checkpoint, models, module_source, sources
from exporters.errors import ModelError, UnsupportedModelError
from exporters.store import Artifact, ArtifactStore, StoreError

#: What becomes of the driver's run if an export fails in these ways.
STATUSES: dict[type[Exception], str] = {ModelError: "user", UnsupportedModelError: "unsupported", StoreError: "store"}


def export(args: argparse.Namespace) -> Artifact:
    """Make the artifact that the command line asks for, unless it is in the store."""
    store = ArtifactStore(Path(args.artifacts))
    if args.format == "checkpoint":
        source = sources.resolve(args.model, weights=args.weights, task=args.task, seed=args.seed)
        if args.pickled:
            source = module_source.in_memory(args.model, args.model.rpartition("@")[2], args.task, args.pickled)
        return store.make(checkpoint.recipe(source), lambda folder: checkpoint.export(source, folder))
    module = exporters.load_module(args.format)
    recipe = exporters.recipe(args.format, args.checkpoint, precision=args.precision, device=args.device)
    weights = store.folder / f"checkpoint-{args.checkpoint}"
    return store.make(recipe, lambda folder: module.export(weights, folder, recipe))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request; any failure is data for the driver."""

    def made() -> dict[str, Any]:
        args = parser().parse_args(request["options"])
        models.import_libraries()
        artifact = export(args)
        return {"key": artifact.key, "seconds": artifact.export_seconds}

    return channel.answered(made, STATUSES)


def parser() -> argparse.ArgumentParser:
    """The options of a request."""
    result = argparse.ArgumentParser(prog="", description="Write one artifact into the store.")
    result.add_argument("--artifacts", required=True, help="root folder of the store")
    result.add_argument("--format", required=True)
    result.add_argument("--model", help="for the checkpoint: name, folder or Hub id")
    result.add_argument("--weights", default="auto")
    result.add_argument("--task", default="base")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--pickled", default="", help="for the checkpoint of a module in memory: folder that holds it")
    result.add_argument("--checkpoint", help="for every other format: key of the checkpoint artifact")
    result.add_argument("--precision", default="fp32")
    result.add_argument("--device", default="cpu")
    return result


class Exporting:
    """The process that writes artifacts into the store under `root`, one after another; started when it is needed.

    After a failure the next artifact is another process's: nothing that was left behind can reach it.
    """

    def __init__(self, root: Path, threads: int, python: Path | None = None) -> None:
        self.root, self.threads, self.python = root, threads, python
        self._process: channel.Worker | None = None

    def request(
        self, format: str, which: Sequence[str], timeout_seconds: float, most_seconds: float = math.inf
    ) -> None:
        """Have the artifact of `format` written; `which` are the other options. Raises WorkerError, also after the
        seconds that `Worker.work` allows.
        """
        if self._process is None:
            self._process = start(self.root, self.threads, self.python)
        options = [f"--artifacts={self.root}", "--format", format, *which]
        try:
            self._process.work({"op": "export", "options": options}, timeout_seconds, most_seconds)
        except channel.WorkerError:
            self.close()
            raise

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def start(root: Path, threads: int, python: Path | None = None) -> channel.Worker:
    """Start the process that exports into the store under `root`."""
    return channel.start("bench.process.export", [], threads, root, python)


if __name__ == "__main__":
    channel.serve(answer, channel.parent())
