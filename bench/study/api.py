"""`judge_study`: files of results in, the page out. The command line is a thin layer over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.study import hand_made, hand_made_memory, study_claims
from bench.study.claims import Claim
from bench.study.figures import Figures
from bench.study.findings import OUTCOMES, Finding
from bench.study.reading import obstacles, read_figures
from bench.study.series import Crossover, crossover, over_batches

CLAIMS: tuple[Claim, ...] = (*study_claims.CLAIMS, *hand_made.CLAIMS, *hand_made_memory.CLAIMS)


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

    def write(self, output: str | Path, plots: str | None = None) -> list[Path]:
        """Write the page to `output`, Markdown or HTML by its suffix; returns every file that was written.

        `plots` is "svg", "png", "none", or None for SVG where matplotlib is installed. Markdown has them in files
        beside the page, HTML within. Raises UserError where something is in the way, BenchError where it cannot be
        written.
        """
        from bench.study.output import write

        return write(self, Path(output), plots)

    def markdown(self) -> str:
        """The page as Markdown, without plots."""
        from bench.study import markdown
        from bench.study.page import blocks

        return markdown.render(blocks(self))


def judge_study(files: Sequence[str | Path], *, anyway: bool = False) -> Study:
    """Hold the study's claims, and those of the hand-made measurements, against runs of this machine.

    `files` were written by `bench compare`, `corpus`, `generate` or `memory`. Raises UserError for a file that is none
    of them, and for files of different machines unless `anyway`.
    """
    if not files:
        raise UserError("no file was given; give .jsonl files of bench compare, corpus, generate or memory")
    figures = read_figures(files)
    found = obstacles(figures.sources)
    if found and not anyway:
        raise UserError(f"{found[0]}; make a page of each machine, or use --anyway")
    return Study(
        figures,
        tuple((claim, claim.judge(figures)) for claim in CLAIMS),
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
