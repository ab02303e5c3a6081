"""What a process holds once its model is loaded: figures of a record, and the sections that explain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.columns import DASH, Column, Section, Table
from bench.run.record import Record, Run

GIB, MIB = 2**30, 2**20


def loaded(record: Record, name: str) -> int | None:
    """One figure of the loaded model, in bytes."""
    held: Mapping[str, int] = record.memory.get("loaded") or {}
    return held.get(name)


def unread_bytes(run: Run, record: Record) -> int:
    """Weights that are mapped from the file and not in memory yet; a GPU holds all of its weights."""
    if run.options.kind == "cuda":
        return 0
    return max(0, (loaded(record, "mapped_bytes") or 0) - (loaded(record, "mapped_resident_bytes") or 0))


def context_bytes(run: Run, record: Record) -> int | None:
    """What the process holds beside the allocator's reserve and the mapped weights: interpreter and libraries, or on a
    GPU its context and kernels.
    """
    process, reserved = run.process_bytes(record), loaded(record, "reserved_bytes")
    if process is None or reserved is None:
        return None
    return process - reserved - (0 if run.options.kind == "cuda" else loaded(record, "mapped_resident_bytes") or 0)


def beside_parameters_bytes(run: Run, record: Record) -> int | None:
    """What the process would hold with every weight read, less its parameters and buffers."""
    process, parameters = run.process_bytes(record), loaded(record, "parameters_bytes")
    return None if process is None or parameters is None else process + unread_bytes(run, record) - parameters


def _of_loaded(value: Callable[[Run, Record], Any]) -> Callable[[Run, Record], Any]:
    return lambda run, record: value(run, record) if record.memory.get("loaded") else None


COLUMNS = (
    *(
        Column(name, lambda run, record, name=name: loaded(record, name), help=about)  # type: ignore[misc]
        for name, about in {
            "process_before_bytes": "resident before the model was loaded, with the runtime imported",
            "data_bytes": "private writable memory, touched or not",
            "mapped_bytes": "mapped from the model's files",
            "mapped_resident_bytes": "mapped from the model's files and in memory",
        }.items()
    ),
    Column("unread_bytes", _of_loaded(unread_bytes), help="mapped weights that are not in memory yet"),
    Column("context_bytes", _of_loaded(context_bytes), help="process less reserve and mapped weights"),
    Column("beside_parameters_bytes", _of_loaded(beside_parameters_bytes), help="all but parameters and buffers"),
)


def tables(run: Run, records: Sequence[Record]) -> Iterator[Section]:
    """What each of `records` holds, and what the columns are."""
    shown = [record for record in records if record.status == "ok"]
    has_unread = any(unread_bytes(run, record) for record in shown)
    titles = ("parameters", "allocated", "reserved", "process", *(["unread"] if has_unread else []), "context")
    rows = []
    for record in shown:
        held = [loaded(record, f"{name}_bytes") for name in ("parameters", "allocated", "reserved")]
        held += [run.process_bytes(record), *([unread_bytes(run, record)] if has_unread else [])]
        held.append(context_bytes(run, record))
        rows.append((run.name(record.candidate), *map(mebibytes, held)))
    if rows:
        yield Section("Once loaded, before any input, MiB", table=Table(("backend", *titles), tuple(rows)))
        yield Section("", (_legend(run),))


def _legend(run: Run) -> str:
    """What the columns are, which is not the same on every device."""
    if run.options.kind == "cuda":
        return (
            "parameters: with buffers. allocated, reserved: by the runtime's allocator on the GPU. process: GPU memory "
            "that the process took. context: process less reserved, which is the CUDA context and kernels"
        )
    return (
        "parameters: with buffers. allocated, reserved: the C library's heap, in use and taken from the system. "
        "process: resident. unread: weights mapped from the file that are not in memory yet. context: process less "
        "reserved and less mapped weights in memory, which is the interpreter, libraries and what those map"
    )


def explanation(run: Run, records: Sequence[Record], beside: Sequence[str]) -> Section:
    """Why a process is larger than its model; `beside` is what others found."""
    found = [line for record in records if record.status == "ok" and (line := _parts(run, record))]
    return Section("Why a process is larger than its model", items=[*found, *beside])


def _parts(run: Run, record: Record) -> str:
    process, rest = run.process_bytes(record), beside_parameters_bytes(run, record)
    if process is None or rest is None:
        return ""
    unread = unread_bytes(run, record)
    takes = "with the weights that it has not read yet, the process takes" if unread else "the process takes"
    line = (
        f"{run.name(record.candidate)}: {takes} {mebibytes(process + unread)} MiB, of which parameters and buffers are "
        f"{mebibytes(loaded(record, 'parameters_bytes'))} and {mebibytes(rest)} are beside them"
    )
    before = loaded(record, "process_before_bytes")
    if run.options.kind == "cuda" or before is None:
        return line
    return f"{line}; {mebibytes(before)} were there before it loaded anything"


def keys_and_values(run: Run, lengths: Sequence[int]) -> Section:
    """The arithmetic of a decoder's cache, with its factors, from the note "keys_and_values"."""
    from exporters.sources import BYTES_PER_ELEMENT, KeysAndValues

    noted = run.notes.get("keys_and_values")
    if noted is None:
        return Section("Keys and values of one sequence", items=[f"{run.model.name}: none, as it is no decoder"])
    cached, lines = KeysAndValues(**noted), []
    for precision in dict.fromkeys(candidate.precision for candidate in run.candidates):
        taken = {length: cached.bytes(length, precision) for length in lengths}
        products = (f"{length} tokens = {held:,} ({mebibytes(held)} MiB)" for length, held in taken.items())
        lines.append(
            f"{precision}: 2 (keys, values) × {cached.layers} layers × {cached.heads} heads × {cached.head_width} wide "
            f"× {BYTES_PER_ELEMENT[precision]} bytes × {', × '.join(products)}"
        )
    return Section("Keys and values of one sequence", items=lines)


def mebibytes(count: float | None) -> str:
    """Bytes as MiB: one decimal below 10, none above; a dash for None."""
    if count is None:
        return DASH
    value = count / MIB
    return f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"


def size(count: int) -> str:
    """`4.0 GiB` or `512 MiB`."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
