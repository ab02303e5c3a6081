"""`python -m bench.process.export`: write artifacts into the store, in a process of its own.

It answers the request {"op": "export"} like a worker, with the key of the artifact that its command line asks for, or
an error. A request with "options" asks for another one in the words of a command line: to import torch and transformers
again would take longer than most exports.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exporters
from bench.process import channel
from exporters import checkpoint, models, module_source, sources
from exporters.errors import ModelError, UnsupportedModelError
from exporters.store import Artifact, ArtifactStore, StoreError


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


def answer(args: argparse.Namespace, options: Sequence[str] | None = None) -> dict[str, Any]:
    """The reply to {"op": "export"}, for `options` in place of `args`; any failure is data for the driver."""
    from backends.base import one_line, parse_out_of_memory

    args = args if options is None else parser().parse_args(options)
    try:
        models.import_libraries()
        artifact = export(args)
    except ModelError as error:
        return {"error": {"status": "user", "reason": str(error)}}
    except UnsupportedModelError as error:
        return {"error": {"status": "unsupported", "reason": str(error)}}
    except StoreError as error:
        return {"error": {"status": "store", "reason": str(error)}}
    except Exception as error:  # an exporter may raise anything; what it says becomes the cells' reason
        figures = parse_out_of_memory(f"{type(error).__name__}: {error}")
        status = "failed" if figures is None else "oom"
        return {"error": {"status": status, "reason": one_line(error), "details": figures or {}}}
    return {"ok": {"key": artifact.key, "seconds": artifact.export_seconds}}


def parser() -> argparse.ArgumentParser:
    """The exporting process's command line."""
    result = argparse.ArgumentParser(
        prog="python -m bench.process.export", description="Write one artifact into the store."
    )
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
    result.add_argument("--parent", type=int, default=0, help="process to die with; 0 for none")
    return result


class Exporting:
    """The process that writes artifacts into the store under `root`, one after another; started when it is needed.

    `python` is the interpreter of another environment than this. After a failure the next artifact is another
    process's: nothing that the failure left behind can reach it.
    """

    def __init__(self, root: Path, threads: int, python: Path | None = None) -> None:
        self.root, self.threads, self.python = root, threads, python
        self._process: channel.Worker | None = None

    def request(self, format: str, which: Sequence[str], timeout_seconds: float) -> None:
        """Have the artifact of `format` written; `which` are the other options. Raises WorkerError."""
        options = [f"--artifacts={self.root}", "--format", format, *which]
        try:
            if self._process is None:
                self._process = start(self.root, options, self.threads, self.python)
                self._process.request({"op": "export"}, timeout_seconds)
            else:
                self._process.request({"op": "export", "options": options}, timeout_seconds)
        except channel.WorkerError:
            self.close()
            raise

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def start(root: Path, options: Sequence[str], threads: int, python: Path | None = None) -> channel.Worker:
    """Start the process that exports into the store under `root` what `options` say, and what it is asked for then."""
    command = [*channel.python_module("bench.process.export", python), *options, "--parent", str(os.getpid())]
    further = channel.compiler_cache(root) | (channel.project_for_others(root) if python else {})
    return channel.Worker(command, threads, further)


def main() -> None:
    """Export when asked to, and end with the input."""
    args = parser().parse_args()
    channel.take_up_work(args.parent)
    channel.serve(lambda request: answer(args, request.get("options")))


if __name__ == "__main__":
    main()
