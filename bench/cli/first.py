"""What a bare `bench` says: where to begin, and what to do with the newest results."""

from __future__ import annotations

import shlex
from pathlib import Path

STEPS = (
    ("bench doctor", "what is missing, what would disturb a run"),
    ("bench compare --model bert", "time and judge eager, onnx and torchscript"),
    ("bench choose RUN --traffic FILE", "which one to deploy for your requests"),
    ("bench report RUN --output RUN.html", "one page that defends the choice"),
)


def steps(artifacts: Path) -> str:
    """Lines of at most 80 columns, but for a file's name that is longer."""
    width = max(len(command) for command, _ in STEPS)
    lines = ["Which inference runtime to deploy a model on, on this machine, and is it still", "the same model?", ""]
    lines += [f"  {command:<{width}}  {what}" for command, what in STEPS]
    return "\n".join([*lines, "", *_newest(artifacts), "bench --help names every command."])


def _newest(artifacts: Path) -> list[str]:
    from bench.choose.candidates import is_of_shapes
    from bench.cli.report import writer_of
    from bench.run import registry
    from bench.saved import look, saved

    for path in saved(artifacts):
        try:
            found = look(path)
        except OSError:
            continue
        writer = writer_of(found)
        if not writer:
            continue
        file = shlex.quote(str(path))
        what = f"The newest results are of {writer} ({found.model or 'no model'}):"
        following = ["  bench show"]
        if found.kind == "run" and not found.has_ended:
            following.append(f"  {writer} --resume {file}")
        elif found.kind == "run" and is_of_shapes(registry.load_class(found.workload)):
            following.append(f"  bench choose {file}")
        return [what, f"  {path}", *following, ""]
    return []
