"""A certificate as a table for 80 columns, as JSON, or as Markdown for a pull request."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from bench.parity.certificate import Certificate, Judgement
from bench.parity.inputs import OWN
from bench.parity.verdict import LOCAL_FACTOR, Tolerance, told
from bench.report import check_format
from bench.run.columns import PARITY_STYLES

FORMATS = ("table", "json", "markdown")
#: Cases of each backend that are printed; all are in the JSON.
PRINTED_CASES = 5
#: "limit": largest ratio to eager's error as a share of what is allowed; "× eager": RMSE over eager's.
COLUMNS = ("case", "verdict", "limit", "× eager", "max |Δ|")
COLUMNS_OF_HIDDEN_STATES = ("p99 |Δ|", "cosine")
COLUMNS_OF_LOGITS = ("KL", "top-1", "top-5")


def render(certificate: Certificate, format: str) -> str:
    """The certificate in one of `FORMATS`."""
    check_format(format, FORMATS)
    if format == "json":
        return json.dumps(certificate.to_json(), indent=2) + "\n"
    return _markdown(certificate) if format == "markdown" else _table(certificate)


def _table(certificate: Certificate) -> str:
    from rich.console import Console
    from rich.text import Text

    width = max(80, min(shutil.get_terminal_size((80, 24)).columns, 120))
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)

    def wrapped(line: str, indent: str = "") -> Text:
        return Text(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False))

    for line in heading(certificate):
        console.print(wrapped(line, "  "))
    for judgement in certificate.judgements:
        style = PARITY_STYLES.get(judgement.verdict, "green")
        console.print()
        console.print(Text(judgement.label, style="bold"), Text(judgement.verdict, style=style), sep=": ")
        if judgement.verdict != "exact":
            console.print(wrapped(f"worst: {judgement.reason}" if judgement.cases else judgement.reason, "  "))
        if judgement.cases:
            console.print(_cases(certificate, judgement))
        for line in [*more_lines(judgement), *generation_lines(judgement), *bisection_lines(judgement)]:
            console.print(wrapped(line, "  "))
    if certificate.notes:
        console.print()
        for note in certificate.notes:
            console.print(wrapped(f"note: {note}", "  "))
    return text.getvalue()


def _cases(certificate: Certificate, judgement: Judgement) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for number, column in enumerate(_columns(certificate)):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for case in judgement.cases[:PRINTED_CASES]:
        name, verdict, *figures = case_cells(certificate, case)
        table.add_row(Text(name), Text(verdict, style=PARITY_STYLES.get(verdict, "")), *figures)
    return table


def _columns(certificate: Certificate) -> tuple[str, ...]:
    return COLUMNS + (COLUMNS_OF_LOGITS if certificate.grid.task == "lm" else COLUMNS_OF_HIDDEN_STATES)


def case_cells(certificate: Certificate, case: Mapping[str, Any]) -> list[str]:
    """One case's cells under the columns; dashes where nothing was measured."""
    share, ratio = case.get("share_of_limit"), case.get("rmse_ratio")
    cells = [
        str(case["name"]),
        str(case["verdict"]),
        "–" if share is None else percent(share),
        "–" if ratio is None else f"{ratio:.3g}",
        _scientific(case.get("max_abs_error")),
    ]
    if certificate.grid.task == "lm":
        return [*cells, _scientific(case.get("kl_mean")), _share(case, "top1_agreement"), _share(case, "top_k_overlap")]
    cosine = case.get("min_cosine")
    return [*cells, _scientific(case.get("p99_abs_error")), "–" if cosine is None else f"{cosine:.6f}"]


def _share(case: Mapping[str, Any], name: str) -> str:
    return "–" if case.get(name) is None else f"{100 * case[name]:.3g}%"


def _scientific(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def percent(share: float) -> str:
    """`61%`, `>999%`."""
    return f"{share:.0%}" if share < 10 else ">999%"


def heading(certificate: Certificate) -> list[str]:
    """What was judged, on what inputs, and by what limits."""
    grid = certificate.grid
    machine = certificate.fingerprint.get("cpu", "")
    if grid.device == "cuda" and certificate.fingerprint.get("gpus"):
        machine = certificate.fingerprint["gpus"][0]["name"]
    batches = ", ".join(str(batch) for batch in dict.fromkeys(shape.batch for shape in grid.shapes))
    lengths = ", ".join(str(length) for length in dict.fromkeys(shape.length for shape in grid.shapes))
    threads = f"{grid.threads} thread{'' if grid.threads == 1 else 's'}"
    ids = "inputs by the module itself" if certificate.ids == (OWN,) else f"ids {', '.join(certificate.ids)}"
    inputs = (
        f"against eager in float64: batch {batches} × length {lengths}; {ids}; "
        f"masks {', '.join(certificate.masks)}; seed {grid.seed}"
    )
    lines = [
        f"{grid.model} ({grid.output}), {grid.device} ({machine}), {threads}{', TF32' if grid.tf32 else ''}",
        f"weights: {certificate.origin}",
        inputs,
    ]
    has_logits = grid.task == "lm"
    return lines + [limits(name, tolerance, has_logits) for name, tolerance in certificate.tolerances.items()]


def limits(precision: str, tolerance: Tolerance, has_logits: bool) -> str:
    """One line on what a precision may differ by."""
    factor = tolerance.eager_factor
    line = (
        f"{precision}: equivalent up to {factor:g}× eager's own RMSE, {LOCAL_FACTOR * factor:g}× at one token or unit, "
        f"or each error within {told(tolerance)}; "
    )
    if not tolerance.has_budget:
        return line + "nothing may be lost"
    budget = []
    if tolerance.max_rms_share is not None:
        budget.append(f"RMSE {tolerance.max_rms_share:.3g} of the reference's RMS")
    if tolerance.max_kl is not None and has_logits:
        budget.append(f"mean KL {tolerance.max_kl:g}")
    if tolerance.min_top1 is not None and has_logits:
        budget.append(f"top-1 {tolerance.min_top1:.3g} beside near-ties")
    return f"{line}lossy up to {', '.join(budget)}"


def more_lines(judgement: Judgement) -> list[str]:
    """How the cases that are not printed came out, and the flips of the most likely token."""
    lines = []
    rest = judgement.cases[PRINTED_CASES:]
    if rest:
        counts = {
            verdict: sum(case["verdict"] == verdict for case in rest) for case in rest for verdict in [case["verdict"]]
        }
        lines.append(f"{len(rest)} more: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    judged = [case for case in judgement.cases if "top1_n" in case]
    if judged:
        positions = sum(case["top1_n"] for case in judged)
        flips, near = (sum(case[name] for case in judged) for name in ("top1_flips", "top1_near_ties"))
        ties = f", {near} of them near-ties" if flips else ""
        lines.append(f"top-1: {flips} of {positions} positions flip{ties}")
    return lines


def generation_lines(judgement: Judgement) -> list[str]:
    """One line for each prompt and way of generating."""
    lines = []
    for entry in judgement.generation:
        line = f"generation, {entry['name']}: {entry['verdict']}"
        if "steps" in entry:
            at = entry["diverges_at"]
            if at is None:
                line += f"; all {entry['steps']} greedy tokens are the reference's"
            else:
                how = "a near-tie ({:.1e} apart)" if entry["is_near_tie"] else "{:.1e} below the reference's own"
                line += f"; token {at + 1} of {entry['steps']} is another, {how.format(entry['margin'])}"
            if "top1_n" in entry:
                line += f"; forced: top-1 {entry['top1_agreement']:.1%} of {entry['top1_n']}, KL {entry['kl_mean']:.1e}"
        if entry["verdict"] not in ("exact", "equivalent"):
            line += f"; {entry['reason']}"
        lines.append(line)
    return lines


def bisection_lines(judgement: Judgement) -> list[str]:
    """Where it goes wrong, as far as that was looked for."""
    found = judgement.bisection
    if not found:
        return []
    lines = []
    if "case" in found:
        lines.append(
            f"bisection of {found['case']}: {found['layers_compared']} hidden states and {found['values_compared']} "
            "values compared"
            if "layers_compared" in found
            else f"bisection of {found['case']}"
        )
    if (layer := found["layer"]) is not None:
        lines.append(f"first layer out of tolerance: {layer['name']}{_times_eager(layer)}")
    if (node := found["node"]) is not None:
        made = ", ".join(node.get("operations") or [node["op_type"]])
        reads = f" reading {', '.join(node['reads'])}" if node.get("reads") else ""
        at = f" of {node['module']}" if node.get("module") else ""
        lines.append(f"first node out of tolerance: {node['name']} ({made}{reads}){at}{_times_eager(node)}")
    return lines + [f"note: {note}" for note in found["notes"]]


def _times_eager(figures: Mapping[str, Any]) -> str:
    ratio = figures.get("ratio")
    return "" if ratio is None else f", RMSE {ratio:.3g} times eager's"


def _markdown(certificate: Certificate) -> str:
    lines = [*(f"{line}  " for line in heading(certificate)), ""]
    columns = ("backend", *_columns(certificate))
    lines += [f"| {' | '.join(column.replace('|', chr(92) + '|') for column in columns)} |"]
    lines += ["|" + "---|" * len(columns)]
    for judgement in certificate.judgements:
        dashes = ["–"] * (len(columns) - 3)
        rows = [case_cells(certificate, case) for case in judgement.cases[:PRINTED_CASES]] or [
            ["–", judgement.verdict, *dashes]
        ]
        lines += [f"| {judgement.label} | {' | '.join(row)} |" for row in rows]
    lines.append("")
    for judgement in certificate.judgements:
        lines.append(f"- **{judgement.label}: {judgement.verdict}**: {judgement.reason}")
        for line in [*more_lines(judgement), *generation_lines(judgement), *bisection_lines(judgement)]:
            lines.append(f"  - {line}".replace("|", "\\|"))
    lines += [f"- note: {note}" for note in certificate.notes]
    return "\n".join(lines) + "\n"
