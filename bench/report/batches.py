"""What a run with `--batches auto` found at each length: the batch to take, its throughput, and why it ended there."""

from __future__ import annotations

from bench import doubling, statistics
from bench.records import Run
from bench.report import summary

TITLES = ("length", "backend", "batch", "sequences/s", "ms", "tried up to")


def heading(run: Run) -> list[str]:
    """Title and one sentence; nothing for a run whose batches were given."""
    if not run.is_doubling:
        return []
    return [
        "Best batch of each length",
        f"the smallest whose throughput no larger one exceeds by {doubling.GAIN:.0%}",
    ]


def table(run: Run) -> list[tuple[str, ...]]:
    """A row a length and contestant under `TITLES`; the length stands in its first row alone."""
    rows: list[tuple[str, ...]] = []
    for found in doubling.lengths(run):
        for index, best in enumerate(found.bests):
            milliseconds = statistics.median(best.record.samples) / 1e6
            figures = (shown(best.sequences_per_second), f"{milliseconds:.{2 if milliseconds < 100 else 1}f}")
            length = str(found.length) if index == 0 else ""
            name = summary.name(run, best.record)
            rows.append((length, name, str(best.record.batch), *figures, str(best.largest_measured)))
    return rows


def lines(run: Run) -> list[str]:
    """One line a length: who has the most throughput, at which batch, and why no larger one was taken."""
    return [line for found in doubling.lengths(run) if (line := _line(run, found))]


def _line(run: Run, found: doubling.Length) -> str:
    parts = []
    if best := found.winner:
        ties = ", ".join(f"{summary.name(run, tied.record)} at batch {tied.record.batch}" for tied in found.ties)
        parts.append(
            f"{summary.name(run, best.record)} at batch {best.record.batch}, {shown(best.sequences_per_second)} "
            f"sequences/s" + (f" (tie with {ties})" if ties else "")
        )
    if found.ending:
        parts.append(f"ended, as {found.ending}")
    return f"length {found.length}: {'; '.join(parts)}" if parts else ""


def shown(value: float) -> str:
    """Sequences a second with about three significant digits: `0.42`, `4.21`, `42.1`, `4,213`."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
