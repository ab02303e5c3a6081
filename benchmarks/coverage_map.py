"""Which tests execute which lines of the product, in this process and in those that a test starts.

    python benchmarks/coverage_map.py --tree DIR --output map.json

Runs the default suite of DIR, a scratch checkout, once under coverage (`pip install coverage`), one test after another.
A line belongs to the test that executes it. What a fixture of a module or of the session executes belongs to every test
that uses the fixture. The store that the tests of a session share is emptied before each file, so that each file makes
its own exports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

PRODUCT = ("bench", "backends", "exporters")
CONTEXT = "COVERAGE_MAP_CONTEXT"
CONFIGURATION = """[run]
source = {source}
data_file = {data}
parallel = true
context = ${{{context}-}}
sigterm = true
patch = _exit
disable_warnings = no-data-collected, module-not-measured, module-not-imported, dynamic-conflict, couldnt-parse
"""
#: Lies in the tree while it is measured: a process that is killed writes no coverage, so it is asked to end first.
GENTLE_KILL = """import contextlib, os, pathlib, signal, subprocess, time

if os.environ.get("COVERAGE_PROCESS_START"):
    killpg, kill = os.killpg, subprocess.Popen.kill

    def gentle_killpg(group, number):
        if number == signal.SIGKILL:
            with contextlib.suppress(OSError):
                os.kill(group, signal.SIGTERM)
                for _ in range(200):
                    if pathlib.Path(f"/proc/{group}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                        break
                    time.sleep(0.01)
        killpg(group, number)

    def gentle_kill(process):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        kill(process)

    os.killpg, subprocess.Popen.kill = gentle_killpg, gentle_kill
"""


class Contexts:
    """Pytest plugin that names the test or shared fixture at work to coverage, and times both apart."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.tests: dict[str, dict[str, Any]] = {}
        self.fixtures: dict[str, float] = {}
        """Seconds by context."""
        self.file = ""

    @contextlib.contextmanager
    def during(self, context: str) -> Iterator[None]:
        """Book what is executed here, and in processes started here, to `context`."""
        measured, before = coverage.Coverage.current(), os.environ.get(CONTEXT, "")
        assert measured is not None
        os.environ[CONTEXT] = context
        measured.switch_context(context)
        try:
            yield
        finally:
            os.environ[CONTEXT] = before
            measured.switch_context(before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Time a test without the fixtures that it shares."""
        file = item.nodeid.partition("::")[0]
        if file != self.file:
            self.file = file
            self.pytest_sessionfinish()
            shared = item.config._tmp_path_factory.getbasetemp() / "artifacts"  # type: ignore[attr-defined]
            for entry in shared.iterdir() if shared.is_dir() else ():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        entry = self.tests[item.nodeid] = {"fixtures": sorted(getattr(item, "fixturenames", ()))}
        before, started = set(self.fixtures), time.perf_counter()
        with self.during(item.nodeid):
            result = yield
        shared = sum(seconds for context, seconds in self.fixtures.items() if context not in before)
        entry["seconds"] = round(time.perf_counter() - started - shared, 3)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        """Book a shared fixture apart."""
        if fixturedef.scope == "function":
            return (yield)
        context = f"{'' if fixturedef.scope == 'session' else request.node.nodeid}>{fixturedef.argname}"
        started = time.perf_counter()
        try:
            with self.during(context):
                return (yield)
        finally:
            self.fixtures[context] = round(time.perf_counter() - started, 3)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome; a failed phase wins."""
        entry = self.tests[report.nodeid]
        if report.failed or entry.get("outcome") not in ("failed", "skipped"):
            entry["outcome"] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Write what is known so far, so that an interrupted run is of use."""
        if measured := coverage.Coverage.current():
            measured.save()
        self.output.write_text(json.dumps({"tests": self.tests, "fixtures": self.fixtures}))


def record(tree: Path, work: Path) -> None:
    """Run the suite of `tree` under coverage, with data files and the tests' times in `work`."""
    configuration, gentle = work / "coveragerc", tree / "sitecustomize.py"
    source = ", ".join(str(tree / package) for package in PRODUCT)
    configuration.write_text(CONFIGURATION.format(source=source, data=work / "coverage", context=CONTEXT))
    environment = os.environ | {"COVERAGE_PROCESS_START": str(configuration), "PYTHONPATH": str(tree), CONTEXT: ""}
    gentle.write_text(GENTLE_KILL)
    try:
        command = [sys.executable, __file__, "--tree", str(tree), "--output", str(work / "tests.json"), "--inside"]
        subprocess.run(command, cwd=tree, env=environment, check=False)
    finally:
        gentle.unlink()


def combine(tree: Path, work: Path) -> dict[str, Any]:
    """The map: tests and shared fixtures with their times, and by file and line the tests that execute it."""
    recorded = json.loads((work / "tests.json").read_text())
    tests = recorded["tests"]
    measured = coverage.Coverage(config_file=str(work / "coveragerc"))
    measured.combine(keep=True)
    data, order = measured.get_data(), {test: number for number, test in enumerate(tests)}
    users: dict[str, list[int]] = {}

    def numbers(context: str) -> list[int]:
        if context not in users:
            # A process adds its own context to that of the test which it forked in.
            where, is_fixture, fixture = context.rpartition("|")[2].partition(">")
            users[context] = (
                [order[test] for test in tests if test.startswith(where) and fixture in tests[test]["fixtures"]]
                if is_fixture and where not in order
                else [order[where]] if where in order else []
            )  # fmt: skip
        return users[context]

    lines = {}
    for file in sorted(data.measured_files()):
        found = data.contexts_by_lineno(file)
        lines[str(Path(file).relative_to(tree))] = {
            line: sorted({number for context in contexts for number in numbers(context)})
            for line, contexts in sorted(found.items())
        }
    listed = [{"id": test, **entry} for test, entry in tests.items()]
    return {"tests": listed, "fixtures": recorded["fixtures"], "lines": lines}


def main() -> None:
    """Measure and write the map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, required=True, help="a scratch checkout")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="test files instead of the whole suite")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    tree, output = args.tree.resolve(), args.output.resolve()
    if args.inside:
        options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-o", "timeout=1800", *os.environ.get("ONLY", "").split()]
        sys.exit(pytest.main(options, plugins=[Contexts(output)]))
    work = output.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ["ONLY"] = " ".join(args.only)
    record(tree, work)
    output.write_text(json.dumps(combine(tree, work)))


if __name__ == "__main__":
    main()
