"""A search that `bench tune` wrote, read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.damage import check_objects, check_texts, damage_told
from bench.linesfile import read_lines
from bench.spec import Candidate, Shape
from bench.statistics import Interval, Ratio
from bench.tuning.results import SCHEMA, Goal, Outcome, Tuning
from bench.tuning.space import Trial


def read_tuning(path: Path) -> Tuning:
    """The search in the file at `path`; raises UserError where it is none, damaged, or of a later schema."""
    header, *_ = read_lines(path, "tuning", SCHEMA, "bench tune")
    with damage_told(path):
        texts = [str(header[name]) for name in ("model", "device", "budget", "started", "command")]
        check_texts([*texts, header["reproduce"], *header["runs"]], header["fingerprint"])
        check_objects(header["not_tried"], header["goal"])
        model, device, budget, started, command = texts
        return Tuning(
            model, device, _goal(header["goal"]), budget, started, command, header["fingerprint"],
            rungs=[{_trial_of_row(row): _outcome(row) for row in rung} for rung in header["rungs"]],
            is_decided=bool(header["is_decided"]),
            not_tried={str(name): str(reason) for name, reason in header["not_tried"].items()},
            winner=_trial(header["winner"]),
            runner_up=_trial(header["runner_up"]),
            ratio=_ratio(header["ratio"]),
            reproduce=header["reproduce"],
            runs=list(header["runs"]),
            seconds=float(header["seconds"]),
            path=path,
        )  # fmt: skip


def _goal(data: Mapping[str, Any]) -> Goal:
    shares = tuple((Shape(int(shape["batch"]), int(shape["length"])), float(share)) for shape, share in data["shares"])
    return Goal(shares, str(data["source"]), _number(data["max_loss"]))


def _trial_of_row(row: Mapping[str, Any]) -> Trial:
    names = ("backend", "variant", "precision", "copy", "environment")
    return Trial(Candidate(**{name: row[name] for name in names}), int(row["threads"]))


def _outcome(row: Mapping[str, Any]) -> Outcome:
    return Outcome(_number(row["score_ns"]), str(row["reason"]), str(row["verdict"]), _number(row["loss"]))


def _trial(data: Mapping[str, Any] | None) -> Trial | None:
    return None if data is None else Trial(Candidate(**data["contestant"]), int(data["threads"]))


def _ratio(data: Mapping[str, Any] | None) -> Ratio | None:
    if data is None:
        return None
    interval = data["interval"]
    ends = None if interval is None else Interval(float(interval["low"]), float(interval["high"]))
    return Ratio(float(data["value"]), ends, int(data["rounds"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
