"""Every workload keeps the contract, and the contract notices a workload that does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.run import registry
from bench.run.record import Run
from bench.testing import ContractError
from bench.testing_workload import check_workload
from bench.workloads.forward import Forward
from tests.workloads.test_faults import SMALL, _in_this_process  # noqa: F401 - a fixture of this module too


@pytest.mark.parametrize("name", SMALL)
def test_a_workload_keeps_the_contract(name: str, artifacts: Path) -> None:
    assert len(check_workload(name, artifacts=artifacts, **SMALL[name].options)) == 5


@dataclass(frozen=True)
class Nameless:
    """A point without `__str__`."""

    cache: str


class OtherRecords(Forward):
    """Says something of a run that its file does not say again."""

    def heading(self, run: Run) -> Iterator[str]:
        yield f"object {id(run)}"


PLANTED = {
    "another name": ({"name": "backward"}, "forward calls itself 'backward'"),
    "a point that is not printed": ({"point_type": Nameless}, "point has no __str__"),
    "no column of the point": ({"columns": Forward.columns[2:]}, "no column for its point's batch, length"),
    "a column twice": ({"columns": (*Forward.columns, Forward.columns[0])}, "columns of one name: batch"),
    "no cell": ({"cell": "bench.workloads.forward:Forward"}, "is no Cell"),
    "a failure that is none": ({"exit_code": lambda self, run: 1}, "went well ends with exit code 1"),
    "a heading of one process": ({"heading": OtherRecords.heading}, "the report of the file is not"),
    "a long heading": ({"heading": lambda self, run: ["x" * 81]}, "wider than 80 columns"),
    "no repetition": ({"narrowed": lambda self, point: {"shapes": ((9, 9),)}}, "repeating \\d×\\d measures"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_contract_notices(fault: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, message = PLANTED[fault]
    planted = type("Planted", (Forward,), changed)
    monkeypatch.setattr(registry, "load_class", lambda name: planted)
    with pytest.raises(ContractError, match=message):
        check_workload("forward", artifacts=artifacts, **SMALL["forward"].options)
