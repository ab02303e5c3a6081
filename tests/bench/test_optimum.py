"""The environment of `optimum` is made as a user makes it, and eager, onnx and optimum stand in one table."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backends
from bench import testing
from bench.process import export
from bench.process.environments.stored import read
from bench.run.file import read_run
from exporters.errors import UnsupportedModelError

Cli = Callable[..., subprocess.CompletedProcess[str]]
CHECK = """
import warnings; warnings.simplefilter("ignore")
from pathlib import Path
from typing import Any
from bench.testing import check_backend
from exporters.errors import UnsupportedModelError
assert len(check_backend("optimum", artifacts=Path("own"))) == 8
try:
    check_backend("optimum", model="gpt-tiny", artifacts=Path("own"))
except UnsupportedModelError as error:
    assert "no ONNX export of openai-gpt" in str(error)
else:
    raise AssertionError("optimum exports openai-gpt now")
"""


def test_optimum_declares_its_environment_and_keeps_the_light_part_of_the_contract() -> None:
    optimum = backends.load_class("optimum")
    assert optimum.spec.requirements is not None
    pins = [line for line in optimum.spec.requirements.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert {"torch==2.13.0", "transformers==4.57.6", "optimum-onnx==0.1.0"} <= set(pins)
    testing._check_declaration("optimum", optimum, "O2")
    testing._check_stays_light("optimum")


def test_optimums_levels_load_files_of_their_own_and_o4_is_a_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.base.is_installed", lambda module: True)
    monkeypatch.setattr("backends.base.distribution_version", lambda module: "1.0")
    monkeypatch.setattr("backends.optimum.has_library_of", lambda provider: True)
    monkeypatch.setattr("backends._torch.torch_cuda_version", lambda: "13.0")
    optimum = backends.load_class("optimum")
    formats = [optimum.spec.format_of(variant) for variant in optimum.spec.variants]
    assert formats == ["optimum", "optimum-o1", "optimum-o2", "optimum-o3", "optimum-o4"]
    assert [name for name in optimum.spec.variants if optimum.supports(name, "cpu", "fp32")] == ["O4"]
    assert "--device cuda" in str(optimum.supports("O4", "cpu", "fp32"))
    assert "--precisions fp16" in str(optimum.supports("O4", "cuda", "fp32"))
    assert optimum.supports("O4", "cuda", "fp16") is None
    assert "use optimum:O4" in str(optimum.supports("O2", "cuda", "fp16"))


def test_the_list_of_backends_prints_what_adds_optimum(cli_here: Cli) -> None:
    is_here = not backends.load_class("optimum").spec.missing()
    assert is_here or "add it with: bench env create optimum" in cli_here("list", "backends").stdout


def test_a_model_that_a_format_cannot_hold_is_unsupported_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(args: Any) -> None:
        raise UnsupportedModelError("optimum has no ONNX export of openai-gpt for this task; use onnx")

    monkeypatch.setattr(export, "export", refuse)
    monkeypatch.setattr(export.models, "import_libraries", lambda: None)
    request = {"op": "export", "options": ["--artifacts", "a", "--format", "optimum"]}
    assert export.answer(request)["error"]["status"] == "unsupported"


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_eager_onnx_and_optimum_stand_in_one_table(cli: Cli, cli_here: Cli, root: Path, tmp_path: Path) -> None:
    done = cli("env", "create", "optimum", timeout=500)
    assert done.returncode == 0, done.stderr
    environment = read(tmp_path / "artifacts", "optimum")
    assert environment is not None
    options = ("--batches", "3", "--lengths", "16", "--rounds", "2", "--max-seconds-per-cell", "0.1s", "--quiet")
    options += ("--warmup", "1ms", "--max-warmup", "10ms")

    backends = "eager,onnx,optimum,optimum:O2,optimum:O4"
    done = cli_here("compare", "--model", "bert-tiny", "--backends", backends, *options, "--output", "b")
    run = read_run(tmp_path / "b")
    cells = {record.candidate.label: record for record in run.records}
    assert {cells[who].verdict for who in ("onnx", "optimum")} == {"equivalent"}, done.stdout
    # Found, and true of this version: of a mask the embeddings fused at O2 keep a length, which is right padding alone.
    assert (cells["optimum:O2"].verdict, done.returncode) == ("broken", 3)
    assert cells["optimum:O4"].status == "unsupported"
    assert cells["optimum:O2"].facts["fused_operators"]["Attention"] == 2
    versions = cells["optimum"].facts["versions"]
    assert versions["transformers"] == environment.versions["transformers"] == "4.57.6"
    assert versions["transformers"] != run.fingerprint["versions"]["transformers"]
    assert "transformers 4.57.6" in done.stdout

    done = cli_here(
        "compare", "--model", "gpt2-tiny", "--backends", "optimum", "--task", "lm", *options, "--output", "g"
    )
    assert [record.verdict for record in read_run(tmp_path / "g").records] == ["equivalent"], done.stdout

    kept = subprocess.run(
        [str(environment.python), "-P", "-c", CHECK], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert kept.returncode == 0, kept.stderr[-2000:]
