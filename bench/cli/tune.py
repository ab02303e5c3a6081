"""`bench tune`: the fastest backend, variant, precision and number of threads for one shape or one traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from bench.cli import measure, spellings
from bench.cli.streams import stopped, tell
from bench.tune.options import TuneOptions

if TYPE_CHECKING:
    from bench.tune.results import Tuning

#: Options of the command that say how to report.
OF_THE_COMMAND = {name: measure.OF_THE_COMMAND[name] for name in ("json", "quiet")}
OLD_SPELLINGS = spellings.of_options(TuneOptions) | spellings.OF_FORMATS


def _run(context: typer.Context, given: dict[str, Any], json: bool, quiet: bool) -> int:
    from bench.report import tuning as report
    from bench.tune import api

    begun: list[Tuning] = []
    listener = api.TuneListener((lambda line: None) if quiet else tell, lambda tuning, space: begun.append(tuning))
    try:
        found = api.search(TuneOptions.parsed(given), listener=listener)
    except (KeyboardInterrupt, SystemExit) as stop:
        kept = [f"what was measured is kept in {tuning.path}" for tuning in begun if any(tuning.rungs)]
        stopped(f"; {kept[0]}" if kept else " before anything was measured")
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    print(report.render(found, "json" if json else "table"), end="")
    return found.exit_code


command = measure.made_of(TuneOptions, OF_THE_COMMAND, _run)
