"""runtimebench: which inference runtime to deploy a model on, on the machine at hand, and is it still the same model?

from bench import compare
run = compare("bert", backends=["eager", "onnx"], batches=[1], lengths=[128])
run.rows()
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.bundle.api import Bundle, deploy
    from bench.bundle.verify import BundleVerification, verify_bundle
    from bench.choose.api import choose
    from bench.choose.choice import Choice
    from bench.errors import BenchError, UserError
    from bench.measuring import check_parity, compare, generate, measure_corpus, measure_load, measure_memory
    from bench.report.study import write_study
    from bench.run.experiment import resume
    from bench.run.file import read_run
    from bench.run.record import Record, Run
    from bench.study.api import Study, judge_study
    from bench.traffic import Traffic
    from bench.tune.api import tune
    from bench.tune.results import Tuning
    from bench.verify import verify

__version__ = "0.1.0"
__all__ = [
    "BenchError",
    "Bundle",
    "BundleVerification",
    "Choice",
    "Record",
    "Run",
    "Study",
    "Traffic",
    "Tuning",
    "UserError",
    "check_parity",
    "choose",
    "compare",
    "deploy",
    "generate",
    "judge_study",
    "measure_corpus",
    "measure_load",
    "measure_memory",
    "read_run",
    "resume",
    "tune",
    "verify",
    "verify_bundle",
    "write_study",
]

_HOMES = {
    "compare": "bench.measuring",
    "resume": "bench.run.experiment",
    "choose": "bench.choose.api",
    "Choice": "bench.choose.choice",
    "Traffic": "bench.traffic",
    "Bundle": "bench.bundle.api",
    "deploy": "bench.bundle.api",
    "BundleVerification": "bench.bundle.verify",
    "verify_bundle": "bench.bundle.verify",
    "generate": "bench.measuring",
    "measure_corpus": "bench.measuring",
    "measure_load": "bench.measuring",
    "measure_memory": "bench.measuring",
    "check_parity": "bench.measuring",
    "verify": "bench.verify",
    "BenchError": "bench.errors",
    "UserError": "bench.errors",
    "Record": "bench.run.record",
    "Run": "bench.run.record",
    "read_run": "bench.run.file",
    "Study": "bench.study.api",
    "judge_study": "bench.study.api",
    "write_study": "bench.report.study",
    "tune": "bench.tune.api",
    "Tuning": "bench.tune.results",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("measure_"):  # of a third party's workload
        found = getattr(import_module("bench.measuring"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


class _Roof(ModuleType):
    """Importing `bench.choose.api` would bind `bench.choose` to that package; the function of the API stays."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Roof
