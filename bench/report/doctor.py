"""What `bench doctor` found out, as one page for a terminal or as JSON.

The page ends with the verdict, since a terminal shows the end of what was printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from bench.columns import DASH, Section, Table, count, milliseconds
from bench.doctor import LARGE_FLOOR, TWINS, Findings, Noise, Overhead
from bench.process.installed import Part
from bench.report import console
from bench.run.columns import DISTURBED, level
from bench.spec import PRECISIONS

REMEDY = "→"
DISTRIBUTIONS = ("torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino")
#: Stands behind a peak that other work disturbed.
LOW = "  (disturbed, may read low)"

Rows = Iterable[tuple[str, str]]


def render(findings: Findings, format: str) -> str:
    """`findings` as "table" or "json"."""
    if format == "json":
        return json.dumps(findings.to_json(), indent=2) + "\n"
    heading = f"bench doctor: this machine, on {findings.device} with {count(findings.threads, 'thread')}"
    return console.render_sections([heading], sections(findings))


def sections(findings: Findings) -> Iterator[Section]:
    """The page."""
    disturbances = [_remedied(one.what, one.remedy) for one in findings.disturbances]
    yield _labelled("Machine", _machine_rows(findings))
    yield _labelled("Installed", (row for part in findings.parts for row in _part_rows(part)))
    yield Section("Would disturb a measurement", items=disturbances or ["nothing that can be seen from here"])
    yield _labelled("Peaks", _peak_rows(findings))
    yield _noise(findings)
    yield _labelled("Overhead of bench itself", _overhead_rows(findings.overhead, findings.noise))
    yield Section("Could not be measured", items=[f"{one.what}: {one.reason}" for one in findings.unmeasured])
    lines, style = verdict(findings)
    yield Section("Verdict", lines, style=style)


def _labelled(title: str, rows: Rows) -> Section:
    """A label and what it says, wrapped beside it."""
    found = tuple(rows)
    styles = tuple(("", "yellow" if text.startswith("missing") else "") for _, text in found)
    return Section(title, table=Table(("", ""), found, (True, True), styles))


def _remedied(what: str, remedy: str) -> str:
    return f"{what} {REMEDY} {remedy}" if remedy else what


def _machine_rows(findings: Findings) -> Rows:
    facts = findings.machine
    around = [
        words for name, words in (("hypervisor", "virtual machine"), ("container", "container")) if facts.get(name)
    ]
    yield "cpu", ", ".join([str(facts.get("cpu", "unknown")), f"{facts.get('cpus', '?')} CPUs usable", *around])
    free, total = findings.free_memory_bytes / 2**30, facts.get("memory_bytes", 0) / 2**30
    disk = f"disk for artifacts: {findings.free_disk_bytes / 2**30:.1f} GiB free"
    yield "memory", f"{free:.1f} of {total:.1f} GiB free; {disk}"
    versions = facts.get("versions", {})
    named = [f"{name} {versions[name]}" for name in DISTRIBUTIONS if name in versions]
    yield "versions", ", ".join([f"Python {facts.get('python', '?')}", *named])


def _part_rows(part: Part) -> Rows:
    there = ", ".join(filter(None, [part.detail, *part.precisions]))
    lines = [*([there] if there else []), *(f"missing: {_remedied(one.what, one.remedy)}" for one in part.lacks)]
    for at, line in enumerate(lines):
        yield "" if at else part.name, line


def _peak_rows(findings: Findings) -> Rows:
    limits = findings.peaks
    if limits is None:
        yield "unknown", "left out (--quick)" if findings.is_quick else "see below"
        return
    for precision in (one for one in PRECISIONS if one in limits.flops_per_second):
        low = LOW if precision in limits.disturbed else ""
        yield precision, operations(limits.flops_per_second[precision], "OP" if precision == "int8" else "FLOP") + low
    if limits.bandwidths:
        (small, fast), (large, slow) = max(limits.bandwidths, key=lambda pair: pair[1]), limits.bandwidths[-1]
        cached = "" if small == large else f"; {fast / 1e9:.1f} GB/s from caches"
        yield "memory", f"reads {slow / 1e9:.1f} GB/s{cached}" + (LOW if "memory" in limits.disturbed else "")


def operations(rate: float, unit: str) -> str:
    """Operations a second, e.g. `226 GFLOP/s`, `35.6 TFLOP/s`."""
    scale, prefix = (1e12, "T") if rate >= 1e12 else (1e9, "G")
    value = rate / scale
    return f"{value:.{0 if value >= 100 else 1}f} {prefix}{unit}/s"


def _noise(findings: Findings) -> Section:
    title, noise = f"Noise: {TWINS[0]} against itself, {findings.model}", findings.noise
    if noise is None:
        return _labelled(title, [("unknown", "left out (--quick)" if findings.is_quick else "see below")])
    rows, styles = [], []
    where: dict[str, list[str]] = {}
    for twin in noise.twins:
        interval = twin.ratio.interval
        span = DASH if interval is None else f"{interval.low:.3f}–{interval.high:.3f}"
        shape = (DISTURBED if twin.disturbances else "") + twin.shape
        said = twin.ratio.verdict if twin.is_alike else f"{twin.ratio.verdict.upper()} THAN ITSELF"
        rows.append((shape, milliseconds(twin.median_ns), f"{twin.spread:.1%}", f"{twin.ratio.value:.3f}", span, said))
        styles.append(("",) * 5 + ("" if twin.is_alike else "bold red",))
        for line in twin.disturbances:
            where.setdefault(line, []).append(twin.shape)
    at = " to ".join(dict.fromkeys(level(end({t.ratio.confidence for t in noise.twins})) for end in (min, max)))
    titles = ("shape", "median ms", "spread", "ratio", f"{at} interval", "must not differ")
    table = Table(titles, tuple(rows), (False, False, False, False, False, True), tuple(styles))
    return Section(title, (), table, [f"{DISTURBED}{', '.join(at)}: {line}" for line, at in where.items()])


def _overhead_rows(overhead: Overhead | None, noise: Noise | None) -> Rows:
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


def verdict(findings: Findings) -> tuple[list[str], str]:
    """The page's last lines and their colour: what may be believed here now, and what is left to do."""
    lines, style = _verdict_on_noise(findings)
    todo = [
        (len(findings.lacking), "part lacks something", "parts lack something"),
        (len(findings.disturbances), "disturbance", "disturbances"),
        (len(findings.unmeasured), "thing could not be measured", "things could not be measured"),
    ]
    said = [f"{number} {one if number == 1 else many}" for number, one, many in todo if number]
    left = f"{', '.join(said)}; {REMEDY} above says what helps" if said else "Nothing is missing, nothing disturbs."
    return [*lines, left], style


def _verdict_on_noise(findings: Findings) -> tuple[list[str], str]:
    noise = findings.noise
    if noise is None and findings.is_quick:
        return ["Peaks and noise were left out: `bench doctor` without --quick measures them."], "bold"
    if noise is None:
        return ["NOTHING IS KNOWN OF THE NOISE: trust no small difference on this machine."], "bold red"
    least = f"{noise.least_difference:.1%}" if noise.least_difference < 1 else f"{1 + noise.least_difference:.1f}-fold"
    if noise.false_verdicts:
        where = ", ".join(f"{twin.ratio.verdict} at {twin.shape}" for twin in noise.false_verdicts)
        return [
            f"NOT FIT FOR SMALL DIFFERENCES: {TWINS[0]} came out {where} than itself.",
            f"Believe no difference below {least} now; stop what disturbs, and run this again.",
        ], "bold red"
    if noise.floor > LARGE_FLOOR:
        return [f"NOISY NOW: believe no difference below {least}; stop what disturbs, try again."], "bold yellow"
    return [f"Fit to measure: differences above {least} can be believed here now."], "bold green"
