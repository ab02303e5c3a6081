"""The part of chaos.py that strikes the command line: nonsense in any place of any command."""

from __future__ import annotations

import random
import shutil
import string
from collections.abc import Callable
from typing import Any

from benchmarks.chaos_processes import Trials
from benchmarks.chaos_rules import World, faults_of, fork

NONSENSE = (
    "", " ", "-", "--", "---", "-1", "0", "1e999", "nan", "None", "💥", "a" * 5000, "../../../etc/passwd", "/dev/null",
    "/dev/zero/x", "/", ".", "1x", "x1", "0x0", "-3x4", "1,,2", ",", "=", "a=b=c", "onnx=", "5 minutes", "-5s",
    "\x1b[31mred", "%s%n", "{}", "[]", "$(id)", "`id`", "null:", ":null", "null:none", "null@none", "bert-tinny", "\n",
    "p95=", "p95=0", "100000%", "-1%", "10000000000000GB", "all", "*", "file:///etc/passwd", "http://x.invalid/",
    "1e400s", "\udcff",
)  # fmt: skip


def commands() -> dict[tuple[str, ...], Any]:
    """Every command of the command line by its words, as typer built it."""
    import typer

    from bench.cli import app

    found: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        names = getattr(command, "list_commands", None)
        if names is None:
            found[words] = command
            return
        import click

        context = click.Context(command)
        for name in names(context):
            walk(command.get_command(context, name), (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def nonsense(world: World, draw: Callable[[int], random.Random], numbers: range) -> Trials:
    """Words that mean nothing in any place of any command; a worker that would be started ends the trial."""
    known = commands()
    for number in numbers:
        rng = draw(number)
        words = list(list(known)[number % len(known)])
        options = [one for one in known[tuple(words)].params if one.opts[0].startswith("-")]
        for one in rng.sample(options, min(len(options), rng.randint(1, 4))):
            words.append(rng.choice(one.opts))
            if not getattr(one, "is_flag", False):
                words.append(_word(rng))
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            words.insert(rng.randint(1, len(words)), _word(rng))
        if rng.random() < 0.1:
            words.insert(0, _word(rng))
        place = world.path("place")
        place.mkdir()
        words = [word.replace("\0", "") for word in words]
        ended = fork(words, place)
        found = faults_of(ended, world)
        if ended.code == 2 and len(ended.errors.strip().splitlines()) != 1:
            found.append(f"a mistake of {len(ended.errors.strip().splitlines())} lines: {ended.errors[:300]!r}")
        kept = [path.name for path in place.rglob("*") if path.is_file() and not path.name.startswith(".lock-")]
        if ended.code == 2 and kept:  # a lock is empty, and pruned
            found.append(f"a refused call left {kept}")
        shutil.rmtree(place)
        yield f"{words!r:.300}", found


def _word(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "".join(rng.choice(string.printable) for _ in range(rng.randint(1, 12)))
    return rng.choice(NONSENSE)
