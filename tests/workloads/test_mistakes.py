"""Options that measure nothing, beside those of tests/golden/cases.py: one line with value and remedy, and no start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.run import registry
from bench.run.experiment import measure
from bench.spec import Shape
from bench.traffic import Traffic

#: What is given beside the options of each row.
GIVEN: dict[str, dict[str, Any]] = {
    "corpus": {"synthetic": 9, "batches": "1,4"}, "load": {}, "generate": {"model": "gpt2-tiny"},
    "memory": {"lengths": [8]}, "coldstart": {},
}  # fmt: skip
MISTAKES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "corpus": [
        ({"batches": "1,10"}, "--batches 10 exceeds the 9 sentences of the corpus"),
        ({"max_tokens": 2}, "--max-tokens 2 is not within 3"),
        ({"cpu_run": "none.jsonl"}, "run file 'none.jsonl' cannot be read"),
    ],
    "load": [
        ({"duration": "2h"}, "--duration '2h' is not above 0 and at most 3600 s"),
        ({"rate": 1000, "duration": "10m"}, "are 600,000 requests, not within"),
        ({"rate": 1, "duration": "3s"}, "are 3 requests, not within --rounds 5"),
        ({"rounds": 0}, "--rounds 0 is not within"),
        ({"bucket": 0}, "--bucket 0 is not within"),
        ({"search_requests": 200}, "--search-requests 200 is for a search, which needs --slo"),
        ({"traffic": Traffic({Shape(1, 1000): 1.0}, "x")}, "length 1000 exceeds the 128 positions of bert-tiny"),
    ],
    "generate": [
        ({"backends": "eager:statik"}, "eager has no variant 'statik'; did you mean 'static'"),
        ({"backends": "eager:sdpa"}, "eager:sdpa is not made for this command; of eager it takes default, "),
        ({"temperature": float("nan")}, "--temperature 'nan' is not a number"),
        ({"task": "lm"}, "unknown option 'task'"),
    ],
    "memory": [
        ({"largest_batch": True, "memory_limit": 0}, "--memory-limit '0' must be positive"),
        ({"largest_batch": True, "memory_limit": "999TiB"}, "GiB that are free now"),
        ({"tf32": True}, "--tf32: cpu has no TF32"),
        ({"max_seconds_per_search": 0}, "--max-seconds-per-search '0'"),
    ],
    "coldstart": [
        ({"caches": "cold"}, "unknown caches 'cold'"),
        ({"rounds": 0}, "--rounds 0 is not within"),
        ({"length": 1000}, "length 1000 exceeds the 128 positions"),
    ],
}


@pytest.mark.parametrize(
    ("name", "options", "words"), [(name, *row) for name, rows in MISTAKES.items() for row in rows]
)
def test_a_mistake_is_one_line(name: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    workload = registry.load_class(name)
    given = {"model": "bert-tiny", "backends": "null", "device": "cpu", "artifacts": str(tmp_path / "artifacts")}
    with pytest.raises(UserError) as refused:
        measure(workload, workload.Options.parsed(given | GIVEN[name] | options))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "artifacts").exists()
