"""The page as text: chapters into the template, styles, scripts and the plotting library within."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from importlib.resources import files
from importlib.util import find_spec

from bench import __version__
from bench.columns import Section
from bench.errors import BenchError, UserError
from bench.report import parts
from bench.report.page import charts, costs, facts, figures, trust
from bench.report.page.answer import Answer, answer
from bench.report.page.chapters import Chapter
from bench.report.page.entries import Entry, entries, names
from bench.run.record import Run

#: A page is not larger than this, whatever the run.
MOST_BYTES = 1_500_000
REMEDY = "pip install 'runtimebench[page]'"
NEEDED = ("jinja2", "vl_convert")
FOLDER = "bench.report.page"


def check_available(option: str) -> None:
    """Raise UserError if what `option` needs is not installed; imports nothing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"{option} needs {' and '.join(missing)}, which is not installed; {REMEDY}")


def is_available() -> bool:
    """True if plots can be drawn; imports nothing."""
    return all(find_spec(name) is not None for name in NEEDED)


def of_sections(title: str, heading: Sequence[str], sections: Sequence[Section]) -> str:
    """One HTML document of sections that are of no run; raises UserError without the extra `page`."""
    check_available("HTML")
    anchors: set[str] = set()
    found = [facts.chapter_of(section, anchors) for section in sections if not section.is_empty]
    return _filled(found, Answer(title, (), (), tuple(heading)), models=title)


def page(runs: Sequence[Run]) -> str:
    """One HTML document of runs of one workload, with nothing outside of it.

    Raises UserError for runs of several workloads, for damaged files whose figures make no sense, and without the extra
    `page`; BenchError if so many cells make no page of `MOST_BYTES`.
    """
    check_available("--output")
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(parts.readable(run))
        of = _entries(runs)
        found = _chapters(runs, of)
        text = _document(runs, of, found, has_tables=True)
        if len(text.encode()) > MOST_BYTES:  # the table of all cells has the same figures
            text = _document(runs, of, found, has_tables=False)
    if len(text.encode()) > MOST_BYTES:
        cells = sum(len(run.records) for run in runs)
        raise BenchError(
            f"a page of {cells} cells takes {len(text.encode()) / 1e6:.1f} MB, above {MOST_BYTES / 1e6:.1f}; "
            "give fewer runs, or use --format csv"
        )
    return text


def chapters(runs: Sequence[Run]) -> list[Chapter]:
    """All parts of the page below its first screen."""
    return _chapters(runs, _entries(runs))


def _entries(runs: Sequence[Run]) -> list[Entry]:
    workloads = list(dict.fromkeys(run.workload.name for run in runs))
    if len(workloads) > 1:
        raise UserError(f"these runs are of {' and '.join(workloads)}; give runs of one workload for a page")
    return entries(runs)


def _chapters(runs: Sequence[Run], of: Sequence[Entry]) -> list[Chapter]:
    keys = charts.legend(names(of))
    drawn: list[Chapter | None] = []
    if any(entry.is_measured for entry in of):
        drawn = [
            figures.crossover(runs, keys),
            *figures.figures(of, keys),
            figures.throughput(of, keys),
            costs.one_time(of, keys),
            trust.parity(of, keys),
            trust.roofline(of, keys),
            trust.rounds(of, keys),
        ]
    drawn += [costs.memory(runs, keys), facts.beside_each_other(runs, of)]
    told = [facts.results(of), *facts.sections(runs, keys), facts.machine(runs), facts.commands(runs, of)]
    return [*(chapter for chapter in drawn if chapter is not None), *told]


def _document(runs: Sequence[Run], of: Sequence[Entry], found: Sequence[Chapter], has_tables: bool) -> str:
    return _filled(
        found,
        answer(runs, of),
        models=", ".join(dict.fromkeys(run.model.name for run in runs)),
        output=runs[0].model.output,
        names=[run.path.name if run.path else run.started for run in runs],
        has_tables=has_tables,
    )


def _filled(
    found: Sequence[Chapter],
    first: Answer,
    models: str,
    output: str = "",
    names: Sequence[str] = (),
    has_tables: bool = True,
) -> str:
    """The template with a first screen and chapters."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    specs = {chart.name: chart.spec for chapter in found for chart in chapter.charts}
    assert len(specs) == sum(len(chapter.charts) for chapter in found), "two plots of one name"
    own = {name: Markup(files(FOLDER).joinpath(f"templates/{name}").read_text()) for name in ("page.css", "page.js")}
    config = dict(charts.CONFIG) | {"legend": {"disable": True}}  # the page has its own, which wrap
    text: str = environment.get_template("page.html").render(
        models=models,
        output=output,
        names=names,
        headline=first.headline,
        facts=first.facts,
        alarms=first.alarms,
        lines=first.lines,
        details=first.details,
        parts=found,
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
