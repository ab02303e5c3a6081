"""`judge_study`: files of runs in, every claim with what became of it out; `bench.report.study` makes the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.study.claims import Claim, claims
from bench.study.figures import Figures
from bench.study.findings import OUTCOMES, Finding
from bench.study.reading import obstacles, read_figures
from bench.study.series import Crossover, crossover, over_batches


@dataclass(frozen=True)
class Study:
    """Every claim with what became of it, and where runtimes come together."""

    figures: Figures
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
    of them or was altered, and for files of different machines unless `force`.
    """
    if not files:
        raise UserError("no file was given; give .jsonl files of bench compare, corpus, generate or memory")
    figures = read_figures(files)
    found = obstacles(figures.sources)
    if found and not force:
        raise UserError(f"{found[0]}; make a page of each machine, or use --force")
    return Study(
        figures,
        tuple((claim, claim.judge(figures)) for claim in claims()),
        tuple(one for one in map(crossover, over_batches(figures)) if one is not None),
        (*found, *_remarks(figures)),
    )


def _remarks(figures: Figures) -> list[str]:
    found = [
        f"{source.path} is incomplete: its run was stopped" for source in figures.sources if not source.is_complete
    ]
    threads = {source.threads for source in figures.sources if source.device == "cpu"}
    if len(threads) > 1:
        counts = ", ".join(map(str, sorted(threads)))
        found.append(f"runs on the CPU have different thread counts ({counts}); each claim is judged within one run")
    return found
