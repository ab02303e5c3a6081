"""The page as text: chapters into the template, styles, scripts and the plotting library within; plots as images."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from bench import __version__
from bench.columns import Plot, Section, size
from bench.errors import BenchError, UserError
from bench.report import parts
from bench.report.page import charts, costs, facts, figures, trust
from bench.report.page.answer import Answer, answer
from bench.report.page.charts import Chart
from bench.report.page.entries import TONES, Chapter, Entry, entries, names
from bench.run.record import Run
from bench.untrusted import all_plain, plain

#: A page is not larger than this, whatever the run.
MOST_BYTES = 1_500_000
REMEDY = "pip install 'runtimebench[page]'"
NEEDED = ("jinja2", "vl_convert")
FOLDER = "bench.report.page"
#: Width of an image's inside in pixels, and pixels of the image for each.
WIDTH = 620
SCALE = 2


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
    found = {section.title: [((), section)] for section in sections if not section.is_empty}
    chapters = facts.chapters(found, dict.fromkeys(found, ()))
    return _filled(list(chapters), Answer(title, lines=heading), models=title)


def page(runs: Sequence[Run]) -> str:
    """One HTML document of runs of one workload, with nothing outside of it.

    Raises UserError for runs of several workloads, for damaged files whose figures make no sense, and without the extra
    `page`; BenchError if so many cells make no page of `MOST_BYTES`.
    """
    check_available("--output")
    with parts.readable(*runs):
        of = _entries(runs)
        found = list(_chapters(runs, of))
        told: dict[str, Any] = {
            "models": ", ".join(dict.fromkeys(run.model.name for run in runs)),
            "output": runs[0].model.output,
            "names": [run.path.name if run.path else run.started for run in runs],
        }
        first = answer(runs, of)
        text = _filled(found, first, **told)
        if len(text.encode()) > MOST_BYTES:  # the table of all cells has the same figures
            text = _filled(found, first, **told, has_tables=False)
    if len(text.encode()) > MOST_BYTES:
        cells = sum(len(run.records) for run in runs)
        raise BenchError(
            f"a page of {cells} cells takes {size(len(text.encode()))}, above {size(MOST_BYTES)}; "
            "give fewer runs, or use --csv"
        )
    return text


def images(runs: Sequence[Run]) -> dict[str, bytes]:
    """Every plot of `runs` as PNG by its name; raises UserError if there is none, or no extra `page`."""
    check_available("--output")
    found = [chart for chapter in _chapters(runs, _entries(runs)) for chart in chapter.charts]
    if not found:
        raise UserError("no cell of these runs was measured, so there is nothing to plot; leave out --output")
    return {chart.name: image(chart, "png") for chart in found}


def of_plot(plot: Plot, format: str) -> bytes:
    """A section's plot as an "svg" or "png" image."""
    return image(facts.chart_of(plot, (), "plot"), format)


def image(chart: Chart, format: str) -> bytes:
    """A chart with its legend as an "svg" or "png" image on white, drawn without a browser."""
    import vl_convert

    spec = all_plain(dict(chart.spec)) | {"width": WIDTH, "background": "white"}
    if format == "svg":
        return str(vl_convert.vegalite_to_svg(spec, config=dict(charts.CONFIG))).encode()
    return bytes(vl_convert.vegalite_to_png(spec, scale=SCALE, config=dict(charts.CONFIG)))


def _entries(runs: Sequence[Run]) -> list[Entry]:
    workloads = list(dict.fromkeys(run.workload.name for run in runs))
    if len(workloads) > 1:
        raise UserError(f"these runs are of {' and '.join(workloads)}; give runs of one workload for a page")
    return entries(runs)


def _chapters(runs: Sequence[Run], of: Sequence[Entry]) -> Iterator[Chapter]:
    """All parts of the page below its first screen."""
    keys = charts.legend(names(of))
    drawn: list[Chapter | None] = []
    if any(entry.is_measured for entry in of):
        drawn += [figures.crossover(runs, keys), *figures.figures(of, keys)]
        further = (figures.throughput, costs.one_time, trust.parity, trust.roofline, trust.rounds)
        drawn += [make(of, keys) for make in further]
    drawn += [costs.memory(runs, keys), facts.beside_each_other(runs, of)]
    yield from (chapter for chapter in drawn if chapter is not None)
    yield from (facts.results(of), *facts.sections(runs, keys), facts.machine(runs), facts.commands(runs, of))


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
        loader=PackageLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )  # fmt: skip
    specs = {chart.name: chart.spec for chapter in found for chart in chapter.charts}
    assert len(specs) == sum(len(chapter.charts) for chapter in found), "two plots of one name"
    own = {name: Markup(files(FOLDER).joinpath(f"templates/{name}").read_text()) for name in ("page.css", "page.js")}
    config = dict(charts.CONFIG) | {"legend": {"disable": True}}  # the page has its own, which wrap
    text: str = environment.get_template("page.html").render(
        models=models,
        output=output,
        names=names,
        first=first,
        parts=found,
        has_tables=has_tables,
        always=("cells", "runs", "machine", "commands"),
        specs=_packed(json.dumps(all_plain({"config": config, "charts": specs}))),
        style=own["page.css"],
        script=own["page.js"],
        library=Markup(_library()) if specs else "",
        tones=TONES,
        version=__version__,
    )
    return text


@cache
def _library() -> str:
    """Vega-Embed with all that it needs, packed."""
    import vl_convert

    return _packed(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _packed(text: str) -> str:
    """`text` as base64 of gzip: a third of its size, no markup in it, and the same for the same text."""
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")
