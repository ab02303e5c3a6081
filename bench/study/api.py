"""`judge_study`: files of runs in, every claim with what became of it out; `bench.report.study` makes the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from bench.errors import UserError
from bench.machine import same_machine
from bench.run.file import check_unaltered, read_run
from bench.run.record import Run
from bench.study.cells import WORKLOADS, Cell, cells_of
from bench.study.claims import Claim, claims
from bench.study.findings import OUTCOMES, Finding
from bench.study.series import Crossover, crossover, series


@dataclass(frozen=True)
class Study:
    """Every claim with what became of it, and where runtimes come together."""

    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    findings: tuple[tuple[Claim, Finding], ...]
    crossovers: tuple[Crossover, ...]
    remarks: tuple[str, ...] = ()
    """What a reader must know of the files, e.g. that they come from two machines."""

    @property
    def counts(self) -> dict[str, int]:
        """Claims of each outcome."""
        return {outcome: sum(found.outcome == outcome for _, found in self.findings) for outcome in OUTCOMES}


def judge_study(files: Sequence[str | Path], *, force: bool = False) -> Study:
    """Hold the study's claims, and those of the hand-made measurements, against runs of this machine.

    `files` were written by `bench compare`, `corpus`, `generate` or `memory`. Raises UserError for a file that is none
    of them, was altered or is given twice, and for files of different machines unless `force`.
    """
    if not files:
        raise UserError("no file was given; give .jsonl files of bench compare, corpus, generate or memory")
    runs: list[Run] = []
    for path in map(Path, files):
        runs.append(_read(path, runs))
    strange = [
        f"{str(one.path)!r} and {str(other.path)!r} are of different machines ({', '.join(differing)} differ)"
        for one, other in combinations(runs, 2)
        if (differing := same_machine(one.fingerprint, other.fingerprint))
    ]
    if strange and not force:
        raise UserError(f"{strange[0]}; make a page of each machine, or use --force")
    cells = cells_of(runs)
    return Study(
        tuple(runs),
        tuple(cells),
        tuple((claim, claim.judge(cells)) for claim in claims()),
        tuple(one for one in map(crossover, series(cells, "batch")) if one is not None),
        (*strange, *_remarks(runs)),
    )


def _read(path: Path, before: Sequence[Run]) -> Run:
    run = read_run(path)
    check_unaltered(run)
    if type(run.workload) not in WORKLOADS:
        writers = " or ".join(f"bench {workload.Options.command}" for workload in WORKLOADS)
        raise UserError(f"{str(path)!r} is no run of {writers}; give .jsonl files that they wrote")
    for other in before:
        if (other.command, other.started) == (run.command, run.started):
            raise UserError(f"{str(other.path)!r} and {str(path)!r} are the same run; give it once")
    return run


def _remarks(runs: Sequence[Run]) -> list[str]:
    found = [f"{run.path} is incomplete: its run was stopped" for run in runs if not run.is_complete]
    threads = {run.options.settled_threads for run in runs if run.options.kind == "cpu"}
    if len(threads) > 1:
        counts = ", ".join(map(str, sorted(threads)))
        found.append(f"runs on the CPU have different thread counts ({counts}); each claim is judged within one run")
    return found
