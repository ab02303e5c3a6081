"""Exports of a run: which artifact a candidate loads, and the process that writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import backends
from backends.null import Null
from bench import testing
from bench.errors import BenchError
from bench.process import export
from bench.process.channel import WorkerError
from bench.run.preparation import exported
from exporters.store import Artifact, ArtifactStore
from tests.in_process import preparation


class Converting(Null):
    """Loads the fp32 artifact whatever it computes in, and another format by one variant."""

    spec = replace(
        Null.spec,
        format="onnx",
        variants={"default": {}, "traced": {"format": "torchscript", "artifact_precisions": {}}},
        precisions={"cpu": ("fp32", "bf16", "int8")},
        artifact_precisions={"bf16": "fp32", "int8": "fp32"},
    )


def test_an_artifact_is_exported_in_the_precision_that_the_backend_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def exported(store: Any, recipe: dict[str, Any], which: list[str], *rest: Any) -> Artifact:
        asked.append((recipe["format"], which))
        return Artifact(recipe["format"], "0" * 16, Path(), recipe, {"positions": 512}, {}, 0.0)

    monkeypatch.setattr("bench.run.preparation.exported", exported)
    monkeypatch.setattr(backends, "load_class", lambda name: Converting)
    plain = preparation(tmp_path, model="bert-tiny", backends="null", precisions="fp32,bf16,int8")
    assert plain.missing_exports() == ["checkpoint", "onnx fp32"]  # the plan names such an export once
    prepared = preparation(tmp_path, model="bert-tiny", backends="null,null:traced", precisions="fp32,bf16")
    prepared.make([])
    made = {(one.variant, one.precision): artifact.recipe for one, artifact in prepared.artifacts.items()}
    assert {cell: recipe["precision"] for cell, recipe in made.items()} == {
        ("default", "fp32"): "fp32",
        ("default", "bf16"): "fp32",
        ("traced", "fp32"): "fp32",
        ("traced", "bf16"): "bf16",
    }
    precisions = [(name, which[which.index("--precision") + 1]) for name, which in asked if "--precision" in which]
    assert sorted(precisions) == [("onnx", "fp32"), ("onnx", "fp32"), ("torchscript", "bf16"), ("torchscript", "fp32")]
    assert made["default", "fp32"] == made["default", "bf16"] != made["traced", "fp32"]


def test_the_contract_is_checked_on_the_same_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def make(store: ArtifactStore, recipe: dict[str, Any], write: Any) -> Artifact:
        made.append((recipe["format"], recipe.get("precision")))
        return Artifact("checkpoint", "0" * 16, tmp_path, {}, {}, {}, 0.0)

    monkeypatch.setattr(ArtifactStore, "make", make)
    testing._Workbench(Converting, "default", "bert-tiny", "cpu", "bf16", tmp_path)
    assert made == [("checkpoint", None), ("onnx", "fp32")]


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_lost_exporter_is_started_again_once(tmp_path: Path, deaths: int) -> None:
    store, left, told = ArtifactStore(tmp_path), [deaths], list[str]()
    recipe = {"format": "checkpoint"}

    class Exporting:
        def request(self, *asked: Any) -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise WorkerError("failed", "the worker was killed by SIGKILL after 0.1 s", is_gone=True)
            store.make(recipe, lambda folder: {"made": (folder / "weights").write_text("w") > 0})

    store.prepare()
    asked: Any = (store, recipe, [], Exporting(), told.append, 60.0)
    if deaths == 1:
        assert exported(*asked).metadata == {"made": True}
    else:
        with pytest.raises(BenchError, match="the checkpoint export failed: the worker was killed by SIGKILL"):
            exported(*asked)
    assert told == [
        "exporting checkpoint",
        "the process that exports checkpoint was lost (the worker was killed by SIGKILL after 0.1 s); starting another",
    ]


class Process:
    """A process that exports, and fails on the formats "crash" and "raise"."""

    def __init__(self) -> None:
        self.is_alive, self.exported = True, list[str]()

    def work(self, message: dict[str, Any], timeout_seconds: float, most_seconds: float) -> dict[str, Any]:
        assert self.is_alive
        args = export.parser().parse_args(message["options"])
        if args.format in ("crash", "raise"):
            raise WorkerError("failed", f"{args.format} fails", is_gone=args.format == "crash")
        self.exported.append(f"{args.format} {args.precision} in {args.artifacts}")
        return {}

    def kill(self) -> None:
        self.is_alive = False


@pytest.mark.parametrize("failure", ["crash", "raise", None])
def test_one_process_exports_all_and_a_failure_costs_its_own_artifact_alone(
    monkeypatch: pytest.MonkeyPatch, failure: str | None
) -> None:
    """After a failure the next one is another process's: what a failed exporter left behind must not reach it."""
    started: list[Process] = []
    monkeypatch.setattr(export, "start", lambda *_: started.append(Process()) or started[-1])
    exporting = export.Exporting(Path("store"), 2)
    exporting.close()  # nothing was needed
    assert started == []
    exporting.request("onnx", ["--precision", "bf16"], 1.0)
    if failure is not None:
        with pytest.raises(WorkerError, match=f"{failure} fails"):
            exporting.request(failure, [], 1.0)
    exporting.request("torchscript", [], 1.0)
    first, last = "onnx bf16 in store", "torchscript fp32 in store"
    assert [one.exported for one in started] == ([[first], [last]] if failure else [[first, last]])
    assert [one.is_alive for one in started] == ([False, True] if failure else [True])
    exporting.close()
    assert not any(one.is_alive for one in started)
