"""runtimebench: which inference runtime to deploy a model on, on the machine at hand, and is it still the same model?

from bench import compare
run = compare("bert", backends=["eager", "onnx"], batches=[1], lengths=[128])
run.rows()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import compare, resume
    from bench.errors import BenchError, UserError
    from bench.records import Record, Run
    from bench.runfile import read_run
    from bench.spec import TimingPlan

__version__ = "0.1.0"
__all__ = ["BenchError", "Record", "Run", "TimingPlan", "UserError", "compare", "read_run", "resume"]

_HOMES = {
    "compare": "bench.api",
    "resume": "bench.api",
    "BenchError": "bench.errors",
    "UserError": "bench.errors",
    "Record": "bench.records",
    "Run": "bench.records",
    "read_run": "bench.runfile",
    "TimingPlan": "bench.spec",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
