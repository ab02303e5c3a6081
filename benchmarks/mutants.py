"""How many of the faults that we plant in the product itself does its own test suite notice?

    python benchmarks/coverage_map.py --tree DIR --output map.json
    python benchmarks/mutants.py --tree DIR --map map.json --output mutants.jsonl [--seed 0] [--count 200]

DIR is a scratch checkout that the script changes and restores. Each mutant of `mutations.py` is run against the tests
that execute its line according to `coverage_map.py`, until one fails: the fastest that together take `--share` of the
suite's time, file by file. Lines that run at import belong to no test; their tests are those that execute a function
of the same file, then those that execute a function of a file that imports it. A test that fails is run again without
the mutant. If it fails there too, it is left out from then on. The output has one line a mutant, in the order of the
draw, so that its first lines are a uniform sample too. Outcomes:

- `killed`: a test fails with the mutant and passes without it;
- `timeout`: as `killed`, by a test that took ten times its time and at least a minute;
- `survived`: every test that was run passes, `tests_run` of `tests_covering`; both are 0 if no test executes the line.

An interrupted run goes on with the mutants that are not in the output. Tests start in a fork of this process, which
has imported the libraries.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mutations import FUNCTIONS, Mutant, draw, product_files

#: Imported once, before the first fork; the product and its tests are not.
LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "typer", "rich.live", "jinja2", "pandas")
LEAST_TIMEOUT_SECONDS = 60.0
TIMEOUT_FACTOR = 10
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Attempt:
    """What a run of some tests showed: the first test that failed, and why."""

    failed: str = ""
    is_timeout: bool = False
    tests_run: int = 0
    why: str = ""


class Chosen:
    """Pytest plugin that runs the chosen tests alone, in their order, and writes down the first that fails."""

    def __init__(self, tests: Sequence[str], output: Path) -> None:
        self.order, self.output = {test: place for place, test in enumerate(tests)}, output
        self.passed: set[str] = set()
        self.failure: dict[str, Any] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the others out."""
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported fails too."""
        self._take(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first failure."""
        self.passed.add(report.nodeid)
        self._take(report)

    def _take(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.failed and not self.failure:
            text = report.longreprtext
            why = next((line for line in text.splitlines() if line.startswith("E ")), text[-200:])
            self.failure = {"failed": report.nodeid, "is_timeout": "Timeout (>" in text, "why": why[:200]}

    def pytest_sessionfinish(self) -> None:
        """Hand the result to the parent."""
        self.output.write_text(json.dumps(self.failure | {"tests_run": len(self.passed)}))


class Suite:
    """The tests of a tree, by the map: which of them cover a mutant, and what they say."""

    def __init__(self, tree: Path, found: dict[str, Any], share: float, work: Path) -> None:
        self.tree, self.work = tree, work
        self.tests: list[dict[str, Any]] = found["tests"]
        self.lines: dict[str, dict[str, list[int]]] = found["lines"]
        self.own: dict[str, float] = {test["id"]: test["seconds"] for test in self.tests}
        self.shared = {test["id"]: _shared(test, found["fixtures"]) for test in self.tests}
        self.seconds = {test: own + sum(self.shared[test].values()) for test, own in self.own.items()}
        self.limit_seconds = share * (sum(self.own.values()) + sum(found["fixtures"].values()))
        self.left_out = {test["id"] for test in self.tests if test.get("outcome") == "skipped"}
        self.imports = {str(file.relative_to(tree)): _imports(file) for file in product_files(tree)}

    def covering(self, mutant: Mutant) -> list[list[str]]:
        """Tests that can notice a mutant, in groups of falling nearness."""
        groups = [self._at(mutant.file, mutant.lines)]
        if mutant.runs_at_import:
            module = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            importers = [file for file, names in self.imports.items() if module in names]
            within = [self._at(file, _body_lines(self.tree / file)) for file in (mutant.file, *importers)]
            groups = [within[0], set().union(groups[0], *within[1:])]
        taken: set[str] = set()
        result = []
        for group in groups:
            result.append(sorted(group - taken - self.left_out, key=lambda test: (self.seconds[test], test)))
            taken |= group
        return result

    def _at(self, file: str, lines: Iterable[int]) -> set[str]:
        found = self.lines.get(file, {})
        return {self.tests[number]["id"] for line in lines for number in found.get(str(line), ())}

    def chosen(self, covering: Sequence[Sequence[str]]) -> list[str]:
        """The fastest within the limit, at least one; file by file, the fastest file first."""
        seconds = 0.0
        chosen: list[str] = []
        files: dict[str, float] = {}
        fixtures: set[str] = set()
        for test in (test for group in covering for test in group):
            cost = self.own[test] + sum(self.shared[test][name] for name in self.shared[test].keys() - fixtures)
            if chosen and seconds + cost > self.limit_seconds:
                continue
            chosen.append(test)
            fixtures |= self.shared[test].keys()
            seconds += cost
            files[_file(test)] = files.get(_file(test), 0.0) + cost
        return sorted(chosen, key=lambda test: (files[_file(test)], _file(test), self.own[test]))

    def run(self, tests: Sequence[str]) -> Attempt:
        """Run `tests` until one fails, in a fork, with a time limit for each and for all."""
        output = self.work / "attempt.json"
        output.unlink(missing_ok=True)
        each = max(LEAST_TIMEOUT_SECONDS, TIMEOUT_FACTOR * max(self.seconds[test] for test in tests))
        until = time.monotonic() + each + TIMEOUT_FACTOR * sum(self.seconds[test] for test in tests)
        child = os.fork()
        if not child:
            self._inside(tests, each, output)
        try:
            while not os.waitpid(child, os.WNOHANG)[0] and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            _end_children()
        if output.exists():
            return Attempt(**json.loads(output.read_text()))
        return Attempt(tests[0], time.monotonic() > until, 0, "the test process ended without a result")

    def _inside(self, tests: Sequence[str], each: float, output: Path) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.chdir(self.tree)
        log = os.open(self.work / "attempt.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += ["-o", f"timeout={each}", f"--basetemp={self.work}/tmp"]
        try:
            pytest.main([*options, *dict.fromkeys(map(_file, tests))], plugins=[Chosen(tests, output)])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)


def _end_children() -> None:
    for left in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _file(test: str) -> str:
    return test.partition("::")[0]


def _shared(test: Mapping[str, Any], fixtures: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the fixtures that a test shares with others."""
    users = {context: context.partition(">") for context in fixtures}
    return {
        context: fixtures[context]
        for context, (where, _, name) in users.items()
        if test["id"].startswith(where) and name in test["fixtures"]
    }


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _body_lines(file: Path) -> set[int]:
    functions = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, FUNCTIONS)]
    return {line for node in functions for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)}


def write(path: Path, source: bytes) -> None:
    """Write a source file so that no compiled copy of before is taken for it."""
    path.write_bytes(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def outcome(suite: Suite, mutant: Mutant) -> dict[str, Any]:
    """Hold one mutant against its tests."""
    path, started = suite.tree / mutant.file, time.monotonic()
    source, alone = path.read_bytes(), []
    covering = suite.covering(mutant)
    result: dict[str, Any] = {"outcome": "survived", "tests_run": 0, "tests_covering": sum(map(len, covering))}
    while chosen := [test for test in suite.chosen(covering) if test not in alone]:
        write(path, mutant.text(source))
        try:
            attempt = suite.run(chosen)
        finally:
            write(path, source)
        result["tests_run"] = attempt.tests_run
        if not attempt.failed:
            break
        again = [attempt.failed] if attempt.failed in suite.seconds else chosen[:1]
        if not (without := suite.run(again)).failed:
            kind = "timeout" if attempt.is_timeout else "killed"
            result |= {"outcome": kind, "test": attempt.failed, "why": attempt.why}
            break
        if not without.tests_run:
            sys.exit(f"{again[0]} does not run without the mutant either: {without.why}; see {suite.work}/attempt.log")
        alone += again
        suite.left_out |= set(again)
        print(f"  {again[0]} fails without the mutant too: {without.why}", flush=True)
        covering = suite.covering(mutant)
    return result | {"seconds": round(time.monotonic() - started, 1)}


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts, and those of the mutants that some test executes."""
    counts = Counter(line["outcome"] for line in lines)
    uncovered = sum(line["outcome"] == "survived" and not line["tests_covering"] for line in lines)
    return {"mutants": len(lines), **counts, "uncovered": uncovered, "caught": counts["killed"] + counts["timeout"]}


def main() -> None:
    """Hold each mutant against the suite, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, required=True, help="a scratch checkout, which is changed and restored")
    parser.add_argument("--map", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.02, help="of the suite's time, that a mutant gets")
    args = parser.parse_args()
    tree, work = args.tree.resolve(), args.output.resolve().with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in args.output.read_text().splitlines()] if args.output.exists() else []
    known = {line["key"] for line in done}
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *rest: sys.exit(1))
    os.environ |= {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    sys.path[0] = str(tree)
    suite = Suite(tree, json.loads(args.map.read_text()), args.share, work)
    mutants = draw(tree, args.seed, args.count)
    for library in LIBRARIES:
        importlib.import_module(library)
    for mutant in (mutant for mutant in mutants if mutant.key not in known):
        told = {"key": mutant.key, "file": mutant.file, "line": mutant.line, "operator": mutant.operator}
        told |= {"before": mutant.before, "after": mutant.after, **outcome(suite, mutant)}
        with args.output.open("a") as stream:
            stream.write(json.dumps(told) + "\n")
        done.append(told)
        print(f"{len(done):4} {told['outcome']:8} {told['seconds']:6} s  {mutant.key}", flush=True)
    print(json.dumps({"seed": args.seed, **summary(done)}))


if __name__ == "__main__":
    main()
