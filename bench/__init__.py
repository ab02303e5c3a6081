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
    from bench.bundle.api import Bundle as Bundle
    from bench.bundle.api import deploy as deploy
    from bench.bundle.verify import BundleVerification as BundleVerification
    from bench.bundle.verify import verify_bundle as verify_bundle
    from bench.choose.api import choose as choose
    from bench.choose.choice import Choice as Choice
    from bench.errors import BenchError as BenchError
    from bench.errors import UserError as UserError
    from bench.measuring import check_parity as check_parity
    from bench.measuring import compare as compare
    from bench.measuring import generate as generate
    from bench.measuring import measure_corpus as measure_corpus
    from bench.measuring import measure_load as measure_load
    from bench.measuring import measure_memory as measure_memory
    from bench.report.study import write_study as write_study
    from bench.run.experiment import resume as resume
    from bench.run.file import read_run as read_run
    from bench.run.record import Record as Record
    from bench.run.record import Run as Run
    from bench.study.api import Study as Study
    from bench.study.api import judge_study as judge_study
    from bench.traffic import Traffic as Traffic
    from bench.tune.api import tune as tune
    from bench.tune.results import Tuning as Tuning
    from bench.verify import verify as verify

__version__ = "0.1.0"
_HOMES = {
    name: home
    for home, names in {
        "bench.bundle.api": ("Bundle", "deploy"),
        "bench.bundle.verify": ("BundleVerification", "verify_bundle"),
        "bench.choose.api": ("choose",),
        "bench.choose.choice": ("Choice",),
        "bench.errors": ("BenchError", "UserError"),
        "bench.measuring": (
            "check_parity", "compare", "generate", "measure_corpus", "measure_load", "measure_memory",
        ),
        "bench.report.study": ("write_study",),
        "bench.run.experiment": ("resume",),
        "bench.run.file": ("read_run",),
        "bench.run.record": ("Record", "Run"),
        "bench.study.api": ("Study", "judge_study"),
        "bench.traffic": ("Traffic",),
        "bench.tune.api": ("tune",),
        "bench.tune.results": ("Tuning",),
        "bench.verify": ("verify",),
    }.items()
    for name in names
}  # fmt: skip
__all__ = list(_HOMES)


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
