"""What `bench memory` found, as tables for 80 columns with the sentences that explain them, or as JSON."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench.footprint.published import published
from bench.footprint.results import MemoryRun, as_line
from bench.report import check_format
from bench.report.memory_lines import (
    cache_lines,
    ending_lines,
    environment_lines,
    gradient_lines,
    lengths_of_cache,
    mebibytes,
    name_of,
    not_measured_lines,
    puzzle_lines,
    size,
)
from bench.report.table import WIDTH

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("table", "json")


def render(run: MemoryRun, format: str) -> str:
    """`run` in one of `FORMATS`; raises UserError for another."""
    check_format(format, FORMATS)
    return json.dumps(_as_json(run), indent=2) + "\n" if format == "json" else _page(run)


def _as_json(run: MemoryRun) -> dict[str, Any]:
    """The file's header and entries, and what is computed from them."""
    device = run.device
    loaded = [
        as_line(entry)
        | {
            "unread_bytes": entry.unread_bytes(device),
            "context_bytes": entry.context_bytes(device),
            "beside_parameters_bytes": entry.beside_parameters_bytes(device),
        }
        for entry in run.loaded
    ]
    cache = [
        {
            "model": subject.name,
            "length": length,
            "precision": precision,
            "bytes": subject.cached.bytes(length, precision),
        }
        for subject in run.subjects
        for precision in run.precisions
        for length in lengths_of_cache(subject)
        if subject.cached is not None
    ]
    return {
        **run.header(),
        "is_complete": run.is_complete,
        "loaded": loaded,
        "keys_and_values": cache,
        "largest": [
            as_line(entry)
            | {
                "peak_bytes_per_sequence": entry.peak_bytes_per_sequence,
                "stored_bytes_per_sequence": entry.stored_bytes_per_sequence,
            }
            for entry in run.largest
        ],
        "published": [asdict(one) for one in published()],
        "sentences": [*puzzle_lines(run), *gradient_lines(run)],
    }


def _page(run: MemoryRun) -> str:
    from rich.console import Console
    from rich.text import Text

    width = max(WIDTH, min(shutil.get_terminal_size((WIDTH, 24)).columns, 108))
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=sys.stdout.isatty(), highlight=False, emoji=False)

    def tell(line: str, indent: str = "") -> None:
        console.print(Text(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False)))

    def section(title: str, lines: Sequence[str]) -> None:
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                tell(f"- {line}", "  ")

    for line in _heading(run):
        tell(line, "  ")
    if any(entry.status == "ok" for entry in run.loaded):
        console.print(Text("\nOnce loaded, before any input, MiB", style="bold"))
        console.print(_loaded_table(run))
        tell(_legend(run), "  ")
    section("Why a process is larger than its model", puzzle_lines(run))
    section("Keys and values of one sequence", cache_lines(run))
    if run.limit_bytes is not None and any(entry.boundary for entry in run.largest):
        console.print(Text(f"\nLargest batch within {size(run.limit_bytes)}", style="bold"))
        console.print(_largest_table(run))
        tell(_largest_legend(run), "  ")
        section("With and without gradients", gradient_lines(run))
    section("How the searches ended", ending_lines(run))
    section("Environments of their own", environment_lines(run))
    section("Not measured", not_measured_lines(run))
    console.print()
    if not run.is_complete:
        tell("Incomplete: stopped before every entry was measured")
    if run.path is not None:
        console.print(Text(f"entries: {run.path}"), soft_wrap=True)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _heading(run: MemoryRun) -> Iterator[str]:
    cards = run.fingerprint.get("gpus") or []
    machine = cards[0]["name"] if run.device == "cuda" and cards else run.fingerprint.get("cpu", "")
    output = "last hidden state" if run.task == "base" else "logits"
    threads = f"{run.threads} thread{'' if run.threads == 1 else 's'}"
    threads += ", TF32" if run.tf32 else ""
    yield f"memory ({output}), {', '.join(run.precisions)}, {run.device} ({machine}), {threads}"
    for origin, subjects in groupby(run.subjects, key=lambda subject: subject.origin):
        yield f"weights of {', '.join(subject.name for subject in subjects)}: {origin}"


def _legend(run: MemoryRun) -> str:
    """What the columns are, which is not the same on every device."""
    if run.device == "cuda":
        return (
            "parameters: with buffers. allocated, reserved: by the runtime's allocator on the GPU. process: GPU memory "
            "that the process took. context: process less reserved, which is the CUDA context and kernels"
        )
    return (
        "parameters: with buffers. allocated, reserved: the C library's heap, in use and taken from the system. "
        "process: resident. unread: weights mapped from the file that are not in memory yet. context: process less "
        "reserved and less mapped weights in memory, which is the interpreter, libraries and what those map"
    )


def _empty_table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("model", overflow="fold", min_width=5)
    table.add_column("backend", overflow="fold", min_width=8)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _loaded_table(run: MemoryRun) -> Table:
    has_unread = any(entry.unread_bytes(run.device) for entry in run.loaded)
    unread = ["unread"] if has_unread else []
    table = _empty_table("parameters", "allocated", "reserved", "process", *unread, "context")
    for entry in run.loaded:
        if entry.status != "ok":
            continue
        held = [entry.memory.get(f"{name}_bytes") for name in ("parameters", "allocated", "reserved")]
        held += [entry.process_bytes(run.device), *([entry.unread_bytes(run.device)] if has_unread else [])]
        held.append(entry.context_bytes(run.device))
        table.add_row(entry.model, name_of(run, entry), *map(mebibytes, held))
    return table


def _largest_table(run: MemoryRun) -> Table:
    table = _empty_table("length", "largest batch", "MiB/sequence", "stored", "asked for")
    for entry in run.largest:
        if entry.boundary is None:
            continue
        exact = entry.boundary.is_exact
        table.add_row(
            entry.model,
            name_of(run, entry),
            str(entry.length),
            f"{entry.boundary.largest}" if exact else f"at least {entry.boundary.largest}",
            mebibytes(entry.peak_bytes_per_sequence),
            mebibytes(entry.stored_bytes_per_sequence),
            mebibytes(entry.failure.get("requested_bytes")),
        )
    return table


def _largest_legend(run: MemoryRun) -> str:
    """What the limit counts, and what the columns are."""
    if run.device == "cuda":
        counted = "The limit bounds what the runtime's allocator takes of the GPU; context and kernels come on top"
    else:
        counted = (
            "The limit bounds the worker's private writable memory (RLIMIT_DATA): heap, mapped weights and stacks, "
            "not the code of libraries"
        )
    return (
        f"{counted}. MiB/sequence: by which the peak of a call grows for one more. stored: what of it stays "
        "allocated while the outputs are kept. asked for: the allocation at which the first batch too large failed"
    )
