"""Every check of the user's input names the value, the cause and the remedy."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from bench.errors import UserError
from bench.spec import Candidate, Shape, check_lengths, parse_candidates, parse_share, parse_sizes
from bench.workloads.forward import ForwardOptions

sizes, candidates = partial(parse_sizes, option="--batches"), partial(parse_candidates, precisions="fp32")
check_of_bert = partial(check_lengths, model="bert", positions=512)


def in_precisions(precisions: str) -> Any:
    return parse_candidates("eager", precisions)


def options(**values: Any) -> Any:
    return ForwardOptions.parsed(values)


def share(text: str) -> float:
    return parse_share(text, "--threshold")


def test_what_is_asked_for_is_understood() -> None:
    assert sizes("8, 1,8") == (1, 8)
    assert sizes([4, 2]) == (2, 4)
    for text, found in (("2%", 0.02), ("0.5 %", 0.005), ("0.02", 0.02), (0.1, 0.1)):
        assert parse_share(text, "--target-precision") == pytest.approx(found)
    check_of_bert([Shape(1, 512)])
    check_lengths([Shape(1, 99999)], "endless", None)


def test_candidates_are_every_backend_at_every_precision() -> None:
    assert parse_candidates("eager,compile:freezing,eager", "fp32,bf16") == (
        Candidate("eager", "default", "fp32"),
        Candidate("compile", "freezing", "fp32"),
        Candidate("eager", "default", "bf16"),
        Candidate("compile", "freezing", "bf16"),
    )
    assert candidates("eager:default")[0].label == "eager"
    first, second = candidates("compile:freezing,compile:freezing@2")
    assert (first.copy, second.copy) == (1, 2)
    assert (first.label, second.label) == ("compile:freezing", "compile:freezing@2")


@pytest.mark.parametrize(
    ("check", "given", "message"),
    [
        (sizes, "0", "--batches 0 is below 1"),
        (sizes, "-3", "--batches -3 is below 1"),
        (sizes, "1,x", "--batches 'x' is not a whole number"),
        (sizes, "1.5", "--batches '1.5' is not a whole number"),
        (sizes, "1" + "0" * 20, "--batches 100000000000000000000 is above 10000000"),
        (sizes, "9" * 5000, "--batches '9999999999999999999999999999999999999999' is not a whole number"),
        (sizes, "٣", "is not a whole number"),
        (sizes, "", "--batches '' is not a whole number"),
        (sizes, "1,,2", "--batches '' is not a whole number"),
        (sizes, [], "--batches is empty"),
        (candidates, "egaer", "unknown backend 'egaer'; did you mean 'eager'?"),
        (candidates, "abacus9000", "unknown backend 'abacus9000'; `bench list backends`"),
        (candidates, "compile:autotune", "compile has no variant 'autotune'; did you mean 'max-autotune'?"),
        (candidates, "compile:sdpa", "compile has no variant 'sdpa'"),
        (candidates, "", "--backends is empty"),
        *((candidates, f"eager@{n}", "is no number of a copy; write e.g. eager@2") for n in ("0", "", "x", "100")),
        (in_precisions, "fp31", "unknown precision 'fp31'; did you mean 'fp32'?"),
        (in_precisions, " , ", "--precisions is empty"),
        (check_of_bert, [Shape(1, 8), Shape(1, 513)], "length 513 exceeds the 512 positions of bert; use --lengths ≤ 512"),
        *((share, text, "is no share; write e.g. --threshold 2%") for text in ("", "two", "-1%", "1e-3", "2%%", "nan")),
        (options, {"rounds": 0}, "--rounds 0"),
        (options, {"max_seconds_per_cell": 0}, "--max-seconds-per-cell '0"),
        (options, {"timeout": -1}, "--timeout '-1"),
        (options, {"timeout": float("inf")}, "--timeout 'inf"),
        (options, {"max_seconds_per_cell": float("nan")}, "--max-seconds-per-cell 'nan"),
        (options, {"target_precision": 0.0}, "--target-precision 0% is not above 0 and below 100%"),
        (options, {"target_precision": 1.0}, "--target-precision 100% is not above 0 and below 100%"),
        (options, {"boundary": "hosts"}, "unknown boundary 'hosts'; did you mean 'host'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_remedy(check: Any, given: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(**given) if isinstance(given, dict) else check(given)
    assert message in str(caught.value)
