"""Write the golden files anew from the committed runs: `python -m tests.golden.make [WORD]`, all or those with WORD."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer

from tests.golden.calls import HERE, Called, call, folder
from tests.golden.cases import RUNS, reports
from tests.golden.page import text_of

EXIT_CODES_FILE = "exit_codes.json"
#: Not made here: the runs, and the code and prose beside them.
KEPT = re.compile(r"(runs|__pycache__)/|[a-z]+\.py$|README\.md$")


def goldens() -> Mapping[str, Callable[[], str]]:
    """Path of each golden file below tests/golden, and what makes its content."""
    found: dict[str, Callable[[], str]] = {}
    for words in commands():
        found[f"help/{'-'.join(words) or 'bench'}.txt"] = partial(_help, words)
    for path, command in reports():
        found[f"reports/{path}"] = partial(_report, command)
    for name in ("verification", "verification-strict"):
        found[f"reports/verify/{name}.txt"] = partial(_verification, name)
    found["reports/deploy/bundle.txt"] = _deployed
    found[EXIT_CODES_FILE] = exit_codes
    return found


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, `bench` itself and groups included."""
    from bench.cli import app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if hasattr(command, "list_commands"):  # those of workloads are made when they are asked for
            for name in command.list_commands(None):
                yield from below(command.get_command(None, name), (*words, name))

    return below(typer.main.get_command(app), ())


def exit_codes() -> str:
    """JSON: exit code and standard error by command line, and the exit code of the run in each file.

    The command lines are those of the file as it is, and of all reports.
    """
    lines = [*json.loads((HERE / EXIT_CODES_FILE).read_text())["commands"], *(command for _, command in reports())]
    called = {line: call(line) for line in dict.fromkeys(lines)}
    content = {"commands": {line: _ended(found) for line, found in called.items()}, "runs": _runs()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _ended(found: Called) -> dict[str, object]:
    return {"exit_code": found.exit_code, "stderr": found.errors}


def _runs() -> dict[str, int]:
    """The exit code that the command which wrote a file ended with."""
    from bench.run.file import read_run
    from bench.tune.file import read_tuning

    found: dict[str, int] = {}
    for name in RUNS:
        read: Callable[[Path], Any] = read_tuning if name == "tune" else read_run
        found[f"{name}.jsonl"] = read(HERE / "runs" / f"{name}.jsonl").exit_code
    return found


def _help(words: tuple[str, ...]) -> str:
    return call(" ".join([*words, "--help"])).output


def _report(command: str) -> str:
    from bench import __version__

    found = call(command)
    if found.page is not None:
        return text_of(found.page).replace(f"runtimebench {__version__}", "runtimebench VERSION")
    assert found.output, found.errors
    return found.output


def _verification(name: str) -> str:
    """What `bench verify BUNDLE` printed, from what it found: to find it again takes workers and time."""
    from bench.bundle.envelope import Kept
    from bench.bundle.verify import BundleVerification
    from bench.report import bundle
    from bench.spec import Candidate
    from bench.workloads.judgements import Judgement

    values = json.loads((HERE / "runs" / f"{name}.json").read_text())
    del values["exit_code"]
    values["kept"] = [Kept(**kept) for kept in values["kept"]]
    judged = values["judgement"]
    values["judgement"] = Judgement(**judged | {"candidate": Candidate(**judged["candidate"])})
    return bundle.render(BundleVerification(**values), "table")


def _deployed() -> str:
    """What `bench deploy` printed, from the manifest that it wrote."""
    from bench.bundle import manifest
    from bench.bundle.api import Bundle
    from bench.report import bundle

    with folder() as place:
        path = place / "runs" / "bundle"
        made, _ = manifest.read(path)
        assert made is not None
        digest = hashlib.sha256((path / manifest.FILE).read_bytes()).hexdigest()
        return bundle.made(Bundle(Path("bundle"), made, digest))


def main(word: str = "") -> None:
    """Write the golden files whose path has `word` in it, and remove files that nothing makes any more."""
    wanted = goldens()
    for path in sorted(HERE.rglob("*")):
        name = path.relative_to(HERE).as_posix()
        if path.is_file() and name not in wanted and not KEPT.match(name):
            path.unlink()
            print(f"removed {name}")
    for name, make in wanted.items():
        path = HERE / name
        if word not in name:
            continue
        content = make().encode()
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"wrote {name}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
