"""What every format of a report shows of a run: its state, heading, tables and sections. No workload is known here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.columns import Column, Section, count
from bench.errors import BenchError, UserError
from bench.run import sections as of_every_run
from bench.run.record import Record, Run
from bench.spec import nearest, parse_names

#: Units that a column may be asked for without.
UNITS = ("_ms", "_s", "_bytes")
#: What may be wrong with a file whose figures make no sense; a seal can be computed again.
WRONG = {"altered": "was altered after it was written", "cut": "has no seal", "sealed": "is not as bench writes it"}


@dataclass(frozen=True)
class Group:
    """The rows of one table, and the sections that stand under it."""

    title: str
    records: tuple[Record, ...]
    sections: tuple[Section, ...]


@contextmanager
def readable(*runs: Run) -> Iterator[None]:
    """Raise UserError if the figures of a file make no sense."""
    try:
        yield
    except BenchError:
        raise
    except Exception as error:
        for run in runs:
            if run.integrity != "sealed" or run.is_read:
                wrong = WRONG[run.integrity]
                found = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"{str(run.path)!r} {wrong}, and what it holds makes no report ({found}); measure again"
                ) from error
        raise


def machine(run: Run) -> str:
    """Precisions, device, threads and TF32, in one line."""
    options, fingerprint = run.options, run.fingerprint
    precisions = ", ".join(dict.fromkeys(candidate.precision for candidate in run.candidates))
    name, gpus = fingerprint.get("cpu", ""), fingerprint.get("gpus") or []
    if options.kind == "cuda" and gpus:
        name = gpus[min(options.card or 0, len(gpus) - 1)]["name"]
    threads = count(options.settled_threads, "thread")
    return f"{precisions}, {options.device} ({name}), {threads}" + (", TF32" if options.tf32 else "")


def heading(run: Run) -> list[str]:
    """Model and machine, weights, and what the workload says of its figures."""
    first = f"{run.model.name} ({run.model.output}), {machine(run)}"
    return [first, f"weights: {run.model.origin}", *run.workload.heading(run)]


def point_title(run: Run) -> str:
    """Heading of a column of points."""
    return run.workload.point_title or run.workload.point_noun


def groups(run: Run) -> tuple[list[Group], list[Section]]:
    """The tables of a run, each with the sections of its points, and the sections that stand behind all tables."""
    found: dict[str, list[Record]] = {}
    for _, records in of_every_run.iter_points(run):
        for record in records:
            if (title := run.workload.table_title(record)) is not None:
                found.setdefault(title, []).append(record)
    place = {record.point: title for title, records in found.items() for record in records}
    under: dict[str, list[Section]] = {title: [] for title in found}
    behind: list[Section] = []
    for section in (*run.workload.sections(run), *of_every_run.common(run)):
        if not section.is_empty:
            title = place.get(section.point) if section.point is not None else None
            (behind if title is None else under[title]).append(section)
    made = [Group(title, tuple(records), tuple(under[title])) for title, records in found.items()]
    return made, behind


def columns(run: Run, of: Iterable[Group], is_wide: bool = True, asked: Sequence[Column] = ()) -> list[Column]:
    """The columns of the tables `of` a run: its workload's that have a title, in its order, then those `asked` for."""
    records = [record for group in of for record in group.records]

    def is_shown(column: Column) -> bool:
        if not column.title or column.is_on_request or column in asked or (column.is_wide and not is_wide):
            return False
        return not column.is_optional or any(column.value(run, record) is not None for record in records)

    return [*(column for column in run.workload.columns if is_shown(column)), *asked]


def asked_columns(run: Run, names: str | Iterable[str] | None) -> tuple[Column, ...]:
    """The columns of a run with these names, e.g. "us-per-step,p90"; raises UserError for an unknown one."""
    return columns_named(run.workload.all_columns, names)


def columns_named(columns: Iterable[Column], names: str | Iterable[str] | None) -> tuple[Column, ...]:
    """Those of `columns` with these names; raises UserError with the nearest for an unknown one."""
    known = {column.name.replace("_", "-"): column for column in columns}
    units = tuple(unit.replace("_", "-") for unit in UNITS)
    short = {name.removesuffix(unit): column for name, column in known.items() for unit in units if name.endswith(unit)}
    found: dict[Column, None] = {}
    for given in parse_names(names, "--columns") if names else ():
        name = given.replace("_", "-")
        column = known.get(name) or short.get(name)
        if column is None:
            near = nearest(name[:40], [*known, *short])
            raise UserError(f"unknown column {given[:40]!r}{near}; use any of {', '.join(known)}")
        found[column] = None
    return tuple(found)


def title(column: Column) -> str:
    """The heading of a column, of one that has no title of its own too."""
    return column.title or column.name.replace("_", " ")
