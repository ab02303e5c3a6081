"""The floor, and the seed's hand-made rows judged by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.machine.roofline import TOLERANCE, Floor, floor_ns, is_implausible, share, transformer_flops

counts = st.floats(min_value=0, max_value=1e18)
rates = st.floats(min_value=1e3, max_value=1e16)
times = st.floats(min_value=1, max_value=1e15)


def test_the_longer_of_the_two_times_is_the_floor() -> None:
    assert floor_ns(2e9, 1e6, 1e12, 1e9) == Floor(2e6, "compute")
    assert floor_ns(2e9, 8e6, 1e12, 1e9) == Floor(8e6, "memory")
    assert floor_ns(0, 0, 1, 1).ns == 0
    assert [share(Floor(2e6, "compute"), median_ns) for median_ns in (2e6, 4e6)] == [1, 0.5]


def test_a_floor_that_memory_sets_is_less_certain() -> None:
    assert TOLERANCE["memory"] > TOLERANCE["compute"]
    for bound, tolerance in TOLERANCE.items():
        floor = Floor(2e6, bound)
        judged = [is_implausible(floor, floor.ns / (1 + tolerance) * by) for by in (1 + tolerance, 1.001, 0.999)]
        assert judged == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ((1, 1, rate, 1), "peak_flops_per_second .* is not a positive")
            for rate in (0, -1, float("nan"), float("inf"))
        ),
        *(((1, 1, 1, rate), "bytes_per_second .* is not a positive") for rate in (0, -1, float("nan"), float("inf"))),
        *(((count, 0, 1, 1), "flops .* is not a count") for count in (-1, float("nan"))),
        ((0, -1, 1, 1), "weight_bytes .* is not a count"),
    ],
)
def test_rates_counts_and_times_that_are_none_raise(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        floor_ns(*arguments)
    for median_ns in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="is not a positive time"):
            share(Floor(1, "compute"), median_ns)


@given(counts, counts, rates, rates, times, st.floats(min_value=1, max_value=1e3))
def test_faster_machines_and_longer_times_never_make_a_cell_implausible(
    flops: float, weight_bytes: float, peak: float, bandwidth: float, median_ns: float, factor: float
) -> None:
    floor = floor_ns(flops, weight_bytes, peak, bandwidth)
    limits = {"compute": flops / peak * 1e9, "memory": weight_bytes / bandwidth * 1e9}
    assert floor.ns == max(limits.values()) == limits[floor.bound]
    if not is_implausible(floor, median_ns):
        assert not is_implausible(floor, median_ns * factor)
        faster = floor_ns(flops, weight_bytes, peak * factor, bandwidth * factor)
        assert faster.ns <= floor.ns
        assert faster.bound != floor.bound or not is_implausible(faster, median_ns)


@given(st.integers(1, 10**9), st.integers(1, 100), st.integers(1, 10**4), st.integers(1, 1000), st.integers(1, 4096))
def test_operations_grow_with_the_batch_and_more_than_with_the_length(
    weights: int, layers: int, width: int, batch: int, length: int
) -> None:
    one = transformer_flops(weights, layers, width, 1, length)
    assert transformer_flops(weights, layers, width, batch, length) == batch * one
    assert transformer_flops(weights, layers, width, 1, 2 * length) > 2 * one


# The published rows.


def script(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "benchmarks" / "published_rows.py"), *arguments]
    environment = {"PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, encoding="utf-8")


PUBLISHED = """\
NVIDIA GeForce RTX 3090, fp32: 35.6 TFLOP/s, 936 GB/s; times are medians in ms
model          b×len    GFLOP       ms  TFLOP/s   peak  roofline by       verdict
bert             1×1      0.2     7.21      0.0     0%      0.36 memory   possible
bert           1×512     96.8    10.63      9.1    26%      2.72 compute  possible
bert          16×512   1548.2    25.20     61.4   173%     43.49 compute  implausible
bert          32×512   3096.4    29.05    106.6   299%     86.98 compute  implausible
bert          64×512   6192.7        –        –      –    173.95 compute  out of memory
gpt              1×1      0.2     6.59      0.0     0%      0.36 memory   possible
gpt            1×128     22.4    10.24      2.2     6%      0.63 compute  possible
gpt            1×512     96.8    12.90      7.5    21%      2.72 compute  possible
gpt           32×512   3096.3    29.54    104.8   294%     86.97 compute  implausible
gpt           64×512   6192.6        –        –      –    173.95 compute  out of memory
gpt          128×512  12385.2        –        –      –    347.90 compute  out of memory
gpt2-medium    1×512    335.3    34.90      9.6    27%      9.42 compute  possible
gpt2-medium    2×512    670.7    59.24     11.3    32%     18.84 compute  possible
gpt2-medium    4×512   1341.3   106.82     12.6    35%     37.68 compute  possible
gpt2-medium    8×512   2682.7   198.97     13.5    38%     75.36 compute  possible
gpt2-medium   16×512   5365.4        –        –      –    150.71 compute  failed
gpt2-medium   1×1024    722.2    69.21     10.4    29%     20.29 compute  possible
gpt2-medium   2×1024   1444.4   129.59     11.1    31%     40.57 compute  possible
gpt2-medium   4×1024   2888.9   241.27     12.0    34%     81.15 compute  possible
gpt2-medium   8×1024   5777.7        –        –      –    162.30 compute  failed
3 of 15 timed rows lie below their roofline
"""


def test_operations_floors_and_verdicts_of_the_published_rows(root: Path) -> None:
    """By hand: 2 operations a weight and token and attention's, over 35.6 TFLOP/s; 85.05 M weights over 936 GB/s."""
    done = script(root)
    assert done.returncode == 0, done.stderr
    assert done.stdout == PUBLISHED
    assert not is_implausible(floor_ns(3096.4e9, 0, 35.6e12, 936e9), 230e6)  # what honest BERT takes at 32×512


def test_the_script_takes_a_file_and_says_in_one_line_that_one_is_none(root: Path, tmp_path: Path) -> None:
    data = json.loads((root / "bench" / "workloads" / "presets" / "figures" / "rtx3090.json").read_text())
    data["rows"] = [{"model": "gpt", "batch": 1, "length": 8, "status": "ok", "ms": [1e-3]}]
    own = tmp_path / "own.json"
    own.write_text(json.dumps(data))
    assert script(root, str(own)).stdout.splitlines()[-1] == "1 of 1 timed rows lie below their roofline"
    del data["card"]
    own.write_text(json.dumps(data))
    done = script(root, str(own))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "write it as rtx3090.json is written" in done.stderr
