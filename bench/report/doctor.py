"""What `bench doctor` found out, as one page for a terminal of 80 columns or as JSON.

The page ends with the verdict, since a terminal shows the end of what was printed.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench import statistics
from bench.doctor import LARGE_FLOOR, TWINS, Findings, Noise, Overhead, Twins
from bench.machine.roofline import Peaks
from bench.process.installed import Lack, Part
from bench.report import check_format
from bench.report.table import WIDTH, milliseconds
from bench.spec import PRECISIONS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

FORMATS = ("table", "json")
LABEL_WIDTH = 12
REMEDY = "→"
DISTRIBUTIONS = ("torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino")
#: Stands before a shape that was disturbed while it was timed.
TAINTED = "!"
#: Stands behind a peak that other work disturbed.
LOW = "  (disturbed, may read low)"


def render(findings: Findings, format: str) -> str:
    """`findings` in one of `FORMATS`; raises UserError for another."""
    check_format(format, FORMATS)
    if format == "json":
        return json.dumps(findings.to_json(), indent=2) + "\n"
    return _page(findings)


def _page(findings: Findings) -> str:
    from rich.console import Console
    from rich.text import Text

    text = io.StringIO()
    console = Console(file=text, width=WIDTH, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)
    threads = f"{findings.threads} thread" + ("" if findings.threads == 1 else "s")
    console.print(Text(f"bench doctor: this machine, on {findings.device} with {threads}", style="bold"))
    _section(console, "Machine", _labelled(_machine_rows(findings)))
    _section(console, "Installed", _labelled(row for part in findings.parts for row in _part_rows(part)))
    disturbances = [Lack(one.what, one.remedy) for one in findings.disturbances]
    _section(console, "Would disturb a measurement", _remedied(disturbances, "nothing that can be seen from here"))
    _section(console, "Peaks", _labelled(_peak_rows(findings)))
    _section(console, f"Noise: {TWINS[0]} against itself, {findings.model}", _noise(findings))
    _section(console, "Overhead of bench itself", _labelled(_overhead_rows(findings.overhead, findings.noise)))
    if findings.unmeasured:
        _section(
            console, "Could not be measured", _remedied([Lack(f"{u.what}: {u.reason}") for u in findings.unmeasured])
        )
    console.print()
    for line, style in verdict(findings):
        console.print(Text(line, style=style))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _section(console: Console, title: str, content: RenderableType) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(title, style="bold"))
    console.print(content)


def _labelled(rows: Iterable[tuple[str, str]]) -> Table:
    """A label and what it says, wrapped beside it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=LABEL_WIDTH, overflow="fold")
    table.add_column(overflow="fold")
    for label, content in rows:
        table.add_row(Text(label), _colored(content))
    return table


def _remedied(lacks: Iterable[Lack], otherwise: str = "") -> Table:
    """Each thing behind a dash, and its remedy below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    for lack in lacks:
        table.add_row(Text("-"), Text(lack.what))
        if lack.remedy:
            table.add_row(Text(""), _colored(f"{REMEDY} {lack.remedy}"))
    if not table.row_count:
        table.add_row(Text("-"), Text(otherwise))
    return table


def _colored(content: str) -> RenderableType:
    from rich.text import Text

    style = "cyan" if content.startswith(REMEDY) else "yellow" if content.startswith("missing") else ""
    return Text(content, style=style)


def _machine_rows(findings: Findings) -> Iterable[tuple[str, str]]:
    facts = findings.machine
    around = ["virtual machine"] if facts.get("hypervisor") else []
    around += ["container"] if facts.get("container") else []
    yield "cpu", ", ".join([str(facts.get("cpu", "unknown")), f"{facts.get('cpus', '?')} CPUs usable", *around])
    free, total = findings.free_memory_bytes / 2**30, facts.get("memory_bytes", 0) / 2**30
    yield (
        "memory",
        f"{free:.1f} of {total:.1f} GiB free; disk for artifacts: {findings.free_disk_bytes / 2**30:.1f} GiB free",
    )
    versions = facts.get("versions", {})
    named = [f"{name} {versions[name]}" for name in DISTRIBUTIONS if name in versions]
    yield "versions", ", ".join([f"Python {facts.get('python', '?')}", *named])


def _part_rows(part: Part) -> Iterable[tuple[str, str]]:
    there = ", ".join(filter(None, [part.detail, *part.precisions]))
    label = part.name
    if there:
        yield label, there
        label = ""
    for lack in part.lacks:
        yield label, f"missing: {lack.what}"
        if lack.remedy:
            yield "", f"{REMEDY} {lack.remedy}"
        label = ""


def _peak_rows(findings: Findings) -> Iterable[tuple[str, str]]:
    limits = findings.peaks
    if limits is None:
        yield "unknown", "left out (--quick)" if findings.is_quick else "see below"
        return
    for precision in (one for one in PRECISIONS if one in limits.flops_per_second):
        low = LOW if precision in limits.disturbed else ""
        unit = "OP" if precision == "int8" else "FLOP"
        yield precision, operations(limits.flops_per_second[precision], unit) + low
    if reads := _reads(limits):
        yield "memory", reads + (LOW if "memory" in limits.disturbed else "")


def _reads(limits: Peaks) -> str:
    if not limits.bandwidths:
        return ""
    (small, fast), (large, slow) = max(limits.bandwidths, key=lambda pair: pair[1]), limits.bandwidths[-1]
    words = f"reads {slow / 1e9:.1f} GB/s"
    return words if small == large else f"{words}; {fast / 1e9:.1f} GB/s from caches"


def operations(rate: float, unit: str) -> str:
    """Operations a second, e.g. `226 GFLOP/s`, `35.6 TFLOP/s`."""
    scale, prefix = (1e12, "T") if rate >= 1e12 else (1e9, "G")
    value = rate / scale
    return f"{value:.{0 if value >= 100 else 1}f} {prefix}{unit}/s"


def _noise(findings: Findings) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    noise = findings.noise
    if noise is None:
        return _labelled([("unknown", "left out (--quick)" if findings.is_quick else "see below")])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("shape", "median ms", "spread", "ratio", f"{statistics.RATIO_CONFIDENCE:.0%} interval"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("must be a tie", no_wrap=True)
    for twin in noise.twins:
        interval = twin.ratio.interval
        span = "–" if interval is None else f"{interval.low:.3f}–{interval.high:.3f}"
        mark = TAINTED if twin.taint else ""
        cells = [mark + twin.shape, milliseconds(twin.median_ns), f"{twin.spread:.1%}", f"{twin.ratio.value:.3f}", span]
        said = Text("tie") if twin.is_tie else Text(f"{twin.ratio.verdict.upper()} THAN ITSELF", style="bold red")
        table.add_row(*map(Text, cells), said)
    taint: dict[str, list[str]] = {}
    for twin in noise.twins:
        for line in twin.taint:
            taint.setdefault(line, []).append(twin.shape)
    notes = [Lack(f"{TAINTED}{', '.join(where)}: {line}") for line, where in taint.items()]
    return Group(table, _remedied(notes)) if notes else table


def _overhead_rows(overhead: Overhead | None, noise: Noise | None) -> Iterable[tuple[str, str]]:
    if overhead is None:
        yield "unknown", "see below"
        return
    words = f"{overhead.call_ns / 1e3:.2f} µs (null:instant)"
    if noise is not None:
        shortest = min(twin.median_ns for twin in noise.twins)
        words += f", {overhead.call_ns / shortest:.2%} of the shortest call above"
    yield "a call", words
    if overhead.parent_cpu_share is not None:
        yield "the parent", f"{overhead.parent_cpu_share:.1%} of one CPU while a worker was timing"


def verdict(findings: Findings) -> list[tuple[str, str]]:
    """The page's last lines with their colours: what may be believed here now, and what is left to do."""
    lines = [_verdict_on_noise(findings)]
    todo = [
        (len(findings.lacking), "part lacks something", "parts lack something"),
        (len(findings.disturbances), "disturbance", "disturbances"),
        (len(findings.unmeasured), "thing could not be measured", "things could not be measured"),
    ]
    said = [f"{number} {one if number == 1 else many}" for number, one, many in todo if number]
    lines.append(
        (f"{', '.join(said)}; {REMEDY} above says what helps" if said else "Nothing is missing, nothing disturbs.", "")
    )
    return lines


def _verdict_on_noise(findings: Findings) -> tuple[str, str]:
    noise = findings.noise
    if noise is None and findings.is_quick:
        return "Peaks and noise were left out: `bench doctor` without --quick measures them.", "bold"
    if noise is None:
        return "NOTHING IS KNOWN OF THE NOISE: trust no small difference on this machine.", "bold red"
    least = difference(noise.least_difference)
    if noise.false_verdicts:
        return _false_verdicts(noise.false_verdicts, least), "bold red"
    if noise.floor > LARGE_FLOOR:
        return f"NOISY NOW: believe no difference below {least}; stop what disturbs, try again.", "bold yellow"
    return f"Fit to measure: differences above {least} can be believed here now.", "bold green"


def _false_verdicts(twins: Iterable[Twins], least: str) -> str:
    where = ", ".join(f"{twin.ratio.verdict} at {twin.shape}" for twin in twins)
    return (
        f"NOT FIT FOR SMALL DIFFERENCES: {TWINS[0]} came out {where} than itself.\n"
        f"Believe no difference below {least} now; stop what disturbs, and run this again."
    )


def difference(share: float) -> str:
    """A share as `2.3 %`, or as `3.1-fold` where it is one or more."""
    return f"{share:.1%}" if share < 1 else f"{1 + share:.1f}-fold"
