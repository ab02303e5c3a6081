"""The page as text: sections into the template, styles, scripts and the plotting library within."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec

from bench import __version__
from bench.errors import BenchError, UserError
from bench.records import Run
from bench.report.old_page import cost_plots, facts, grid_plots, trust_plots
from bench.report.old_page.answer import answer
from bench.report.old_page.entries import Entry, entries, names
from bench.report.old_page.sections import Section
from bench.report.page import charts

#: A page is not larger than this, whatever the run.
MOST_BYTES = 1_500_000
REMEDY = "pip install 'runtimebench[page]'"
NEEDED = ("jinja2", "vl_convert")
FOLDER = "bench.report.page"


def check_available(option: str) -> None:
    """Raise UserError where what `option` needs is not installed; imports nothing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"{option} needs {' and '.join(missing)}, which is not installed; {REMEDY}")


def sections(runs: Sequence[Run]) -> list[Section]:
    """All parts of the page below its first screen."""
    of = entries(runs)
    return [*plots(runs, of), *_texts(runs, of)]


def plots(runs: Sequence[Run], of: Sequence[Entry]) -> list[Section]:
    """The parts that have plots."""
    keys = charts.legend(names(of))
    if not any(entry.is_measured for entry in of):
        return []
    made = [
        grid_plots.crossover(runs, keys),
        grid_plots.latency(of, keys),
        grid_plots.throughput(of, keys),
        cost_plots.memory(runs, keys),
        cost_plots.one_time(of, keys),
        trust_plots.parity(of, keys),
        trust_plots.floor(of, keys),
        trust_plots.rounds(of, keys),
    ]
    return [section for section in made if section is not None]


def _texts(runs: Sequence[Run], of: Sequence[Entry]) -> list[Section]:
    beside = facts.beside_each_other(runs)
    return [
        *([beside] if beside else []),
        *facts.best_batches(runs),
        *facts.others_figures(runs),
        facts.results(of),
        *facts.findings(runs),
        facts.machine(runs),
        facts.commands(runs, of),
    ]


def page(runs: Sequence[Run]) -> str:
    """One HTML document of `runs`, with nothing outside of it.

    Raises UserError without the extra `page`, BenchError where so many cells are no page of `MOST_BYTES`.
    """
    check_available("--html")
    parts = sections(runs)
    text = _document(runs, parts, has_tables=True)
    if len(text.encode()) > MOST_BYTES:  # the table of all cells has the same figures
        text = _document(runs, parts, has_tables=False)
    if len(text.encode()) > MOST_BYTES:
        cells = sum(len(run.records) for run in runs)
        raise BenchError(
            f"a page of {cells} cells takes {len(text.encode()) / 1e6:.1f} MB, above {MOST_BYTES / 1e6:.1f}; "
            "give fewer runs, or use --format csv"
        )
    return text


def _document(runs: Sequence[Run], parts: Sequence[Section], has_tables: bool) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    specs = {chart.name: chart.spec for part in parts for chart in part.charts}
    assert len(specs) == sum(len(part.charts) for part in parts), "two plots of one name"
    own = {name: Markup(files(FOLDER).joinpath(f"templates/{name}").read_text()) for name in ("page.css", "page.js")}
    config = dict(charts.CONFIG) | {"legend": {"disable": True}}  # the page has its own, which wrap
    first = answer(runs)
    text: str = environment.get_template("page.html").render(
        models=", ".join(dict.fromkeys(run.grid.model for run in runs)),
        output=runs[0].grid.output,
        names=[run.path.name if run.path else run.started for run in runs],
        headline=first.headline,
        facts=first.facts,
        alarms=first.alarms,
        lines=first.told.lines,
        details=[("Does not qualify", first.told.failures), ("What this does not know", first.told.unknown)],
        parts=parts,
        has_tables=has_tables,
        always=("cells", "runs", "machine", "commands"),
        specs=_packed(json.dumps({"config": config, "charts": specs})),
        style=own["page.css"],
        script=own["page.js"],
        library=Markup(_library()) if specs else "",
        symbols=SYMBOL_PATHS,
        version=__version__,
    )
    return text


#: Vega's symbols in a square from -6 to 6, for legends.
SYMBOL_PATHS = {
    "circle": "M-5,0a5,5 0 1 0 10,0a5,5 0 1 0 -10,0Z",
    "square": "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "triangle-up": "M0,-5.5L5.5,4.5H-5.5Z",
    "diamond": "M0,-6L4.5,0L0,6L-4.5,0Z",
    "cross": "M-5.5,-2H-2V-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5Z",
    "triangle-down": "M0,5.5L5.5,-4.5H-5.5Z",
}


@cache
def _library() -> str:
    """Vega-Embed with all that it needs, packed."""
    import vl_convert

    return _packed(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _packed(text: str) -> str:
    """`text` as base64 of gzip: a third of its size, no markup in it, and the same for the same text."""
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")
