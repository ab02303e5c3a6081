"""Columns that the rows of every workload begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any

from bench import statistics
from bench.columns import DASH, Column, factor, milliseconds, percent
from bench.run.record import WALL, Record, Run, is_unsteady

#: Stands before the median of a cell that was disturbed; a warning says by what.
DISTURBED = "!"

PARITY_STYLES = {"broken": "red", "lossy": "yellow", "unjudged": "yellow"}


def point_columns(point: type) -> tuple[Column, ...]:
    """One column a field of a point."""
    return tuple(
        Column(one.name, lambda run, record, name=one.name: getattr(record.point, name))  # type: ignore[misc]
        for one in fields(point)
    )


def option(name: str) -> Column:
    """An option of the run."""
    return Column(name, lambda run, record: getattr(run.options, name))


def figure(name: str, **more: Any) -> Column:
    """A figure of the workload's own; `more` is as for a Column."""
    return Column(name, lambda run, record: record.figures.get(name), **more)


def _at(path: str) -> Callable[[Run, Record], Any]:
    """What lies at a path from the run or the record, e.g. `record.candidate.backend`."""
    root, _, rest = path.partition(".")
    found = attrgetter(rest)
    return lambda run, record: found(run if root == "run" else record)


def _in_ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6


def _disturbed(run: Run, record: Record) -> Any:
    return bool(run.disturbances(record)) if record.is_timed else None


PARITY = Column(
    "parity",
    lambda run, record: record.verdict or None,
    title="parity",
    style=lambda run, record: PARITY_STYLES.get(record.verdict, ""),
    is_left=True,
    help="verdict against the float64 reference",
)
MAX_ABS_ERROR = Column(
    "max_abs_error",
    lambda run, record: record.parity.get("max_abs_error"),
    title="max |Δ|",
    show=lambda value: f"{value:.1e}",
    drop=70,
    help="largest absolute difference from the float64 reference",
)
#: Below it a loss is rounding's in fp32, and reads better as a power of ten than as a percentage.
LEAST_PERCENTAGE = 1e-4


def loss_cell(loss: float) -> str:
    """`0.42%`, or `1.3e-07`."""
    return f"{loss:.1e}" if loss < LEAST_PERCENTAGE else percent(loss, digits=2)


def least_top1(record: Record) -> float | None:
    """The smallest share of positions of any judged case whose most likely token is the reference's."""
    found = (case.get("top1_agreement") for case in record.parity.get("cases", {}).values())
    return min((share for share in found if share is not None), default=None)


LOSS = Column(
    "loss",
    lambda run, record: record.parity.get("loss"),
    title="loss",
    show=loss_cell,
    is_on_request=True,
    help="what the precision itself loses: RMSE over the reference's RMS",
)
TOP1 = Column(
    "top1_agreement",
    lambda run, record: least_top1(record),
    help="least share of positions of a judged case whose most likely token is the reference's",
)
INTEGRITY = "sealed as it was written, cut (no seal), or altered (lines do not match the seal)"
_OF_CANDIDATE = ("backend", "variant", "precision", "copy", "environment")
_OF_MEMORY = {
    "loaded": ("parameters_bytes", "allocated_bytes", "reserved_bytes", "process_bytes", "device_process_bytes"),
    "peak": ("peak_process_bytes", "peak_allocated_bytes", "peak_device_process_bytes"),
}
COMMON_COLUMNS = (
    Column("model", _at("run.model.name")),
    *(Column(name, _at(f"record.candidate.{name}")) for name in _OF_CANDIDATE),
    *(option(name) for name in ("device", "threads", "tf32")),
    *(Column(name, _at(f"run.model.{name}")) for name in ("task", "weights")),
    *(Column(name, _at(f"record.{name}")) for name in ("status", "reason")),
    Column("export_s", _at("record.once.export_seconds"), help="seconds of the export"),
    Column(
        "load_s",
        _at("record.once.load_seconds"),
        title="load s",
        is_on_request=True,
        help="seconds of loading the artifact",
    ),
    Column(
        "first_call_ms",
        lambda run, record: _in_ms(record.once.first_call_ns),
        title="first ms",
        is_on_request=True,
        help="first call, compilation included, ms",
    ),
    PARITY,
    MAX_ABS_ERROR,
    LOSS,
    TOP1,
    Column("disturbed", _disturbed, help="true if other work, the hypervisor or a hot device took part"),
    *(
        Column(name, lambda run, record, group=group, name=name: (record.memory.get(group) or {}).get(name))  # type: ignore[misc]
        for group, names in _OF_MEMORY.items()
        for name in names
    ),
    Column("integrity", _at("run.integrity"), help=INTEGRITY),
    Column("is_complete", _at("run.is_complete"), help="true if every planned cell has its record"),
)


# Figures of samples.


def _of_samples(value: Callable[[Record], Any]) -> Callable[[Run, Record], Any]:
    """A figure of the samples of wall time; None without any."""
    return lambda run, record: value(record) if record.samples else None


def median_ms(kind: str) -> Callable[[Run, Record], Any]:
    """Median of one kind of time in ms; None without samples of it."""
    return lambda run, record: _in_ms(record.median_ns(kind))


def _interval_ms(record: Record, end: str) -> Any:
    found = statistics.median_interval(record.rounds)
    return None if found is None else getattr(found, end) / 1e6


def _percentile_ms(rank: int) -> Callable[[Run, Record], Any]:
    return _of_samples(lambda record: _in_ms(record.percentile(rank)))


def ms(value: float) -> str:
    """Milliseconds as a cell of a table."""
    return milliseconds(value * 1e6)


def headline_cell(run: Run, record: Record, value: Any, show: Callable[[Any], str]) -> str:
    """The first figure of a row, marked if the cell was disturbed; its status if it was not measured."""
    if record.status != "ok":
        return record.status
    return DASH if value is None else (DISTURBED if run.disturbances(record) else "") + show(value)


def median_cell(kind: str) -> Callable[[Run, Record], str]:
    """The median of one kind of time in ms, marked if the cell was disturbed; else its status."""
    return lambda run, record: headline_cell(run, record, median_ms(kind)(run, record), ms)


MEDIAN = Column(
    "median_ms", median_ms(WALL), title="median ms", cell=median_cell(WALL),
    interval=("median_low_ms", "median_high_ms"),
    help="median of synchronised wall time of one call, ms; ! marks a disturbed cell",
)  # fmt: skip
PRECISION = Column(
    "precision_share", _of_samples(lambda record: statistics.precision(record.rounds)), title="±", show=percent,
    drop=90, help=f"half-width of the median's {statistics.MEDIAN_CONFIDENCE:.0%} interval over the median",
)  # fmt: skip
TIMES = (
    MEDIAN,
    PRECISION,
    Column(
        "spread", _of_samples(lambda record: statistics.spread(record.samples)), title="spread", show=percent, drop=40,
        help="interquartile range over the median",
    ),
    Column("q1_ms", _of_samples(lambda record: statistics.quartiles(record.samples)[0] / 1e6)),
    Column("q3_ms", _of_samples(lambda record: statistics.quartiles(record.samples)[2] / 1e6)),
    Column("median_low_ms", _of_samples(lambda record: _interval_ms(record, "low"))),
    Column("median_high_ms", _of_samples(lambda record: _interval_ms(record, "high"))),
    Column("p90_ms", _percentile_ms(90), title="p90 ms", show=ms, drop=25, is_wide=True),
    Column("p95_ms", _percentile_ms(95), title="p95 ms", show=ms, is_on_request=True),
    Column("p99_ms", _percentile_ms(99), title="p99 ms", show=ms, drop=20, is_wide=True),
    Column("samples", lambda run, record: len(record.samples)),
    Column("rounds", lambda run, record: len(record.rounds) or None),
    Column("calls_per_sample", lambda run, record: record.once.calls_per_sample if record.samples else None),
    Column("outliers", _of_samples(lambda record: len(statistics.outliers(record.samples)))),
    Column("drift", _of_samples(lambda record: statistics.drift(record.rounds))),
    Column("unmet", lambda run, record: " ".join(run.workload.unmet(record)) if record.samples else None),
)  # fmt: skip
OTHER_TIMES = (
    Column("device_median_ms", median_ms("device"), help="device time between events, ms"),
    Column("enqueue_median_ms", median_ms("enqueue"), help="host time until the call returned, ms"),
    Column("pipelined_median_ms", median_ms("pipelined"), help="time a call of a train of calls, ms"),
    Column("naive_median_ms", median_ms("naive"), help="a clock without synchronisation, wrong on purpose, ms"),
    Column("host_share", _at("record.host_share"), help="host time to enqueue over device time"),
)

# Against the baseline and the machine's limits.


def ratio_cell(ratio: statistics.Ratio) -> str:
    """`2.70× 2.61–2.78`; verdict and interval alone for a tie, and if the interval is too wide to have a middle."""
    if ratio.interval is None:
        return f"{factor(ratio.value)}× (1 round)"
    span = f"{factor(ratio.interval.low)}–{factor(ratio.interval.high)}"
    is_verdict = is_unsteady(ratio) or ratio.verdict == "tie"
    return f"{ratio.verdict} {span}" if is_verdict else f"{factor(ratio.value)}× {span}"


def speedup_cell(run: Run, record: Record) -> str:
    """`2.70× 2.61–2.78`, `tie 0.98–1.14`, `implausible`, `disturbed`, `too few rounds`, or a dash if models allow no
    speed-up.
    """
    if run.is_implausible(record):
        return "implausible"
    if why := run.why_undecided(record):
        return why.partition(":")[0]
    if record.candidate == run.baseline_candidate and run.are_sound(record):
        return "1×"
    ratio = run.ratio(record) if record.status == "ok" else None
    return DASH if ratio is None else ratio_cell(ratio)


def legend(run: Run) -> str:
    """What the columns of times and speed-ups are."""
    return (
        f"±: {statistics.MEDIAN_CONFIDENCE:.0%} interval; spread: interquartile range; speed-up: against "
        f"{run.baseline_candidate.label} within rounds, {statistics.RATIO_CONFIDENCE:.0%} interval"
    )


def ratio_columns(
    suffix: str, ratio_of: Callable[[Run, Record], statistics.Ratio | None], help: str, **shown: Any
) -> tuple[Column, ...]:
    """A ratio's middle, the ends of its interval and its verdict, each name with `suffix`."""

    def of(value: Callable[[statistics.Ratio], Any]) -> Callable[[Run, Record], Any]:
        return lambda run, record: value(found) if record.samples and (found := ratio_of(run, record)) else None

    return (
        Column(
            f"speedup{suffix}",
            of(lambda ratio: None if is_unsteady(ratio) else ratio.value),
            help=help,
            interval=(f"speedup{suffix}_low", f"speedup{suffix}_high"),
            **shown,
        ),
        Column(f"speedup{suffix}_low", of(lambda ratio: ratio.interval and ratio.interval.low)),
        Column(f"speedup{suffix}_high", of(lambda ratio: ratio.interval and ratio.interval.high)),
        Column(f"verdict{suffix}", of(lambda ratio: ratio.verdict), help="faster, slower or tie"),
    )


SPEEDUP = ratio_columns(
    "", lambda run, record: run.ratio(record), "times faster than the baseline, within rounds", title="speed-up",
    cell=speedup_cell, is_left=True, fold=50,
)  # fmt: skip
ROOFLINE = (
    Column(
        "gflop", lambda run, record: record.operations["flops"] / 1e9 if record.operations else None, title="GFLOP",
        is_on_request=True,
    ),
    Column(
        "roofline_ms",
        lambda run, record: floor.ns / 1e6 if record.samples and (floor := run.floor(record)) else None,
        title="roofline ms", is_on_request=True,
        help="least time that the cell's operations and bytes take at this machine's peaks, ms",
    ),
    Column(
        "roofline_share", lambda run, record: run.roofline_share(record), title="roofline",
        show=lambda value: percent(value, digits=0), drop=80, help="roofline over the median",
    ),
    Column(
        "implausible",
        lambda run, record: run.is_implausible(record) if record.samples and run.floor(record) else None,
        help="true if the median lies below the roofline",
    ),
)  # fmt: skip
