"""Every check of the user's input names the value, the cause and the remedy."""

from __future__ import annotations

import pytest

from bench.errors import UserError
from bench.spec import (
    Candidate,
    Shape,
    check_lengths,
    parse_candidates,
    parse_share,
    parse_sizes,
)
from bench.workloads.forward import ForwardOptions


def test_sizes_are_sorted_and_distinct() -> None:
    assert parse_sizes("8, 1,8", "--batches") == (1, 8)
    assert parse_sizes([4, 2], "--batches") == (2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "--batches 0 is below 1"),
        ("-3", "--batches -3 is below 1"),
        ("1,x", "--batches 'x' is not a whole number"),
        ("1.5", "--batches '1.5' is not a whole number"),
        ("1" + "0" * 20, "--batches 100000000000000000000 is above 10000000"),
        ("9" * 5000, "--batches '9999999999999999999999999999999999999999' is not a whole number"),
        ("٣", "is not a whole number"),
        ("", "--batches '' is not a whole number"),
        ("1,,2", "--batches '' is not a whole number"),
    ],
)
def test_wrong_sizes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_sizes(text, "--batches")
    with pytest.raises(UserError, match="--batches is empty"):
        parse_sizes([], "--batches")


def test_candidates_are_every_backend_at_every_precision() -> None:
    assert parse_candidates("eager,compile:freezing,eager", "fp32,bf16") == (
        Candidate("eager", "default", "fp32"),
        Candidate("compile", "freezing", "fp32"),
        Candidate("eager", "default", "bf16"),
        Candidate("compile", "freezing", "bf16"),
    )
    assert Candidate("compile", "freezing", "fp32").label == "compile:freezing"
    assert parse_candidates("eager:default", "fp32")[0].label == "eager"


@pytest.mark.parametrize(
    ("backends", "precisions", "message"),
    [
        ("egaer", "fp32", "unknown backend 'egaer'; did you mean 'eager'?"),
        ("abacus9000", "fp32", "unknown backend 'abacus9000'; `bench list backends`"),
        ("compile:autotune", "fp32", "compile has no variant 'autotune'; did you mean 'max-autotune'?"),
        ("compile:sdpa", "fp32", "compile has no variant 'sdpa'"),
        ("eager", "fp31", "unknown precision 'fp31'; did you mean 'fp32'?"),
        ("", "fp32", "--backends is empty"),
        ("eager", " , ", "--precisions is empty"),
    ],
)
def test_wrong_candidates(backends: str, precisions: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_candidates(backends, precisions)
    assert message in str(caught.value)


def test_a_length_beyond_the_positions_is_refused_with_the_limit() -> None:
    with pytest.raises(UserError, match="length 513 exceeds the 512 positions of bert; use --lengths ≤ 512"):
        check_lengths([Shape(1, 8), Shape(1, 513)], "bert", 512)
    check_lengths([Shape(1, 512)], "bert", 512)
    check_lengths([Shape(1, 99999)], "endless", None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": 0}, "--rounds 0"),
        ({"max_seconds_per_cell": 0}, "--max-seconds-per-cell '?0"),
        ({"timeout": -1}, "--timeout '?-1"),
        ({"timeout": float("inf")}, "--timeout '?inf"),
        ({"max_seconds_per_cell": float("nan")}, "--max-seconds-per-cell '?nan"),
        ({"target_precision": 0.0}, "--target-precision 0% is not above 0 and below 100%"),
        ({"target_precision": 1.0}, "--target-precision 100% is not above 0 and below 100%"),
        ({"boundary": "hosts"}, "unknown boundary 'hosts'; did you mean 'host'"),
    ],
)
def test_wrong_options_of_timing(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ForwardOptions.parsed(values)


def test_a_copy_is_another_candidate_of_the_same_name() -> None:
    first, second = parse_candidates("compile:freezing,compile:freezing@2", "fp32")
    assert (first.copy, second.copy) == (1, 2)
    assert (first.label, second.label) == ("compile:freezing", "compile:freezing@2")
    for wrong in ("eager@0", "eager@", "eager@x", "eager@100"):
        with pytest.raises(UserError, match=r"is no number of a copy; write e\.g\. eager@2"):
            parse_candidates(wrong, "fp32")


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), ("0.5 %", 0.005), ("0.02", 0.02), (0.1, 0.1)])
def test_shares(text: str | float, share: float) -> None:
    assert parse_share(text, "--target-precision") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "two", "-1%", "1e-3", "2%%", "nan"])
def test_wrong_shares(text: str) -> None:
    with pytest.raises(UserError, match=r"is no share; write e\.g\. --threshold 2%"):
        parse_share(text, "--threshold")
