"""What a run shows on standard error: its plan, a line for each record, and how to go on after Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.streams import stopped, tell
from bench.columns import count, factor, milliseconds
from bench.run.state import going_on

if TYPE_CHECKING:
    from bench.run.listener import Listener, Provisional
    from bench.run.preparation import Preparation
    from bench.run.record import Point, Record, Run
    from bench.spec import Candidate
    from exporters.sources import ModelSource


class Screen:
    """Progress of one run of any workload: a line an event, nothing while a worker is timing."""

    def __init__(self, quiet: bool = False) -> None:
        self.is_quiet = quiet
        self.run: Run | None = None
        """The run, once it is planned."""
        self._told: set[str] = set()

    @property
    def listener(self) -> Listener:
        """What `bench.run.experiment` calls."""
        from bench.run.listener import Listener

        return Listener(self.say, self.plan, self.figure, self.record)

    def say(self, line: str) -> None:
        """Show one line, unless the screen is quiet."""
        if not self.is_quiet:
            tell(line)

    def plan(self, run: Run, prepared: Preparation) -> None:
        """Show what is about to be measured."""
        self.run, self._source = run, prepared.source
        self.say(f"{run.model.name}: {run.model.origin}")
        self.say(f"plan: {_cells(run, prepared.source)}")
        for line in run.workload.plan(run):
            self.say(line)
        for candidate, refusal in prepared.refused.items():
            self.say(f"cannot run: {_name(candidate)}: {refusal.reason}")
        missing = prepared.missing_exports()
        self.say(f"to export: {', '.join(missing) if missing else 'nothing, all in the store'}")
        self.say(f"records: {run.path}")

    def figure(self, run: Run, figure: Provisional) -> None:
        """Show what a cell that is still being measured came to so far."""
        times = "" if figure.speedup is None or figure.against is None else f", {factor(figure.speedup)}×"
        beside = f"{times} as fast as {figure.against.label}" if times and figure.against else ""
        known = f"{count(figure.turns, 'turn')}, {figure.verdict or 'not judged yet'}"
        ms = milliseconds(figure.median_ns)
        self.say(f"provisional: {figure.point} {_name(figure.candidate)} {ms} ms{beside} ({known})")

    def record(self, run: Run, record: Record) -> None:
        """Show what a cell came to; cells that were left out together are one line."""
        if self.is_quiet:
            return
        line = run.workload.progress(run, record)
        if run.workload.is_left_out(record):
            if line not in self._told:
                self.say(line)
            self._told.add(line)
        elif _planned_among(run, [record]):
            points = max(len(str(point)) for point in (*run.workload.points(), record.point))
            names = max(len(_name(candidate)) for candidate in run.candidates)
            self.say(
                f"{_place(run)} {record.point!s:>{points}} {_name(record.candidate):<{names}}  {line}"
                f"{_ending(run, self._source)}"
            )

    def stopped(self) -> None:
        """Show what is kept of a run that was stopped, and the command that goes on with it."""
        run = self.run
        if run is None or run.path is None or not run.path.exists():
            stopped(" before anything was measured")
            return
        kept = f"{count(len(run.records), 'record')} {'is' if len(run.records) == 1 else 'are'} kept"
        stopped(f"; {kept}. Go on with: {going_on(run)}")


def _cells(run: Run, source: ModelSource) -> str:
    """How many cells, on what, and how long they take by a guess."""
    workload, options = run.workload, run.options
    points = workload.first_points() if workload.is_open_ended else _planned(run)
    product = f"{count(len(run.candidates), 'candidate')} × {count(len(points), workload.point_noun)}"
    left = _left(run, points)
    where = f"on {options.device} with {count(options.settled_threads, 'thread')}"
    seconds = f"about {duration(_guessed_seconds(run, source, left))} of measuring"
    if workload.is_open_ended:
        return f"{product} at first, {where}, {seconds}; further ones depend on what these show"
    return f"{count(len(left), 'cell')} ({product}) {where}, {seconds}"


def _place(run: Run) -> str:
    """`[3/18]`; `[3]` if nothing tells how many there will be."""
    done = _planned_among(run, run.records)
    total = str(len(_planned(run)) * len(run.candidates))
    return f"[{done}]" if run.workload.is_open_ended else f"[{done:>{len(total)}}/{total}]"


def _ending(run: Run, source: ModelSource) -> str:
    """How long the run takes from here, at the pace so far."""
    if run.workload.is_open_ended:
        return ""
    if not (left := _left(run, _planned(run))):
        return "  (done)"
    measured = [record for record in run.records if record.status == "ok"]
    guessed = _guessed_seconds(run, source, [record.cell for record in measured])
    spent = (sum(turn.seconds for turn in one.turns) + sum(one.once.warmup_ns) / 1e9 for one in measured)
    pace = sum(spent) / guessed if guessed else 1.0
    return f"  ({duration(pace * _guessed_seconds(run, source, left))} left)"


def _planned(run: Run) -> Sequence[Point]:
    """Points that are known beforehand, less those that the budget has left out."""
    points = run.workload.points()
    kept = run.notes.get("budget")
    return points if kept is None else [points[place] for place in kept]


def _planned_among(run: Run, records: Sequence[Record]) -> int:
    """How many records are of planned cells; those that were left out are not, as the plan does not count them."""
    known = None if run.workload.is_open_ended else frozenset(_planned(run))
    is_known = (known is None or record.point in known for record in records)
    return sum(one and not run.workload.is_left_out(record) for one, record in zip(is_known, records, strict=True))


def _left(run: Run, points: Sequence[Point]) -> list[tuple[Point, Candidate]]:
    """Cells without a record."""
    cells = ((point, candidate) for point in points for candidate in run.candidates)
    return [cell for cell in cells if run.record(*cell) is None]


def _guessed_seconds(run: Run, source: ModelSource, cells: Sequence[tuple[Point, Candidate]]) -> float:
    return sum(run.workload.guessed_seconds(point, source, run.peaks) for point, _ in cells)


def _name(candidate: Candidate) -> str:
    return f"{candidate.label} {candidate.precision}"


def duration(seconds: float) -> str:
    """`45 s` or `3 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
