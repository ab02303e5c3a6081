"""Bundles away from this project: run.py of each runtime, a fresh environment, and a module of the user's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import deploy, verify_bundle
from bench.bundle import samples
from bench.spec import Candidate, Shape
from tests.bench.bundle_cases import TORCHSCRIPT, in_this_process, run_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

#: Runs run.py where nothing of `blocked` can be imported, and prints the largest difference from either reference.
ALONE = """
import sys
sys.modules |= dict.fromkeys({blocked!r})  # as if they were not installed
sys.path.insert(0, {folder!r})
sys.dont_write_bytecode = True
import json, pathlib
import numpy as np
import run
model = run.load()
found = {{}}
for path in sorted(pathlib.Path({folder!r}).glob("samples/*/*/*.inputs.npz")):
    if path.parent.parent.name.startswith("timed"): continue
    inputs, expected = dict(np.load(path)), np.load(str(path).replace(".inputs", ""))
    outputs = run.predict(model, inputs)
    assert set(outputs) == set(expected.files), (set(outputs), set(expected.files))
    kept = inputs.get("attention_mask")
    for name, output in outputs.items():
        off = np.abs(output.astype(np.float64) - expected[name])
        off = off if kept is None else off[kept == 1]
        found[str(path.relative_to({folder!r})) + " " + name] = float(off.max())
print(json.dumps(found))
"""


def differences(python: str, folder: Path, blocked: Sequence[str] = ()) -> dict[str, float]:
    """By sample and output, the largest difference of run.py's from what the bundle holds, at kept positions."""
    code = ALONE.format(blocked={"bench", "backends", "exporters", *blocked}, folder=str(folder))
    command = [python, "-W", "ignore", "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def bundle_of(
    artifacts: Path, folder: Path, backend: str, model: str = "bert-tiny", task: str = "base", variant: str = "default"
) -> Path:
    candidate = Candidate(backend, variant, "fp32")
    run = run_of(model, (candidate,), (Shape(1, 16),), task)
    with in_this_process():
        return deploy(run, folder, choose=candidate.label, artifacts=artifacts).folder


def test_a_fresh_environment_with_the_requirements_alone_runs_it(artifacts: Path, tmp_path: Path) -> None:
    bundle = bundle_of(artifacts, tmp_path / "bundle", "onnx")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    install += ["--no-compile", "-r", "requirements.txt"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(install, check=True, cwd=bundle, env=variables)
    code = (
        "import importlib.util as u; print([m for m in ('torch', 'transformers', 'bench', 'onnx') if u.find_spec(m)])"
    )
    held = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert held.stdout == "[]\n"
    done = subprocess.run([python, "-I", str(bundle / "run.py")], capture_output=True, text=True, check=True, cwd="/")
    assert len(done.stdout.splitlines()) == 4
    found = differences(python, bundle)
    assert len(found) == 32
    assert max(found.values()) < 1e-5
    with in_this_process():  # nothing of all that changed the bundle
        assert verify_bundle(bundle, envelope="off").exit_code == 0


@pytest.mark.parametrize(
    ("backend", "model", "task", "variant", "blocked"),
    [
        ("torchscript", "gpt2-tiny", "lm", "default", ("transformers", "onnxruntime", "onnx")),
        ("openvino", "gpt2-tiny", "lm", "default", ("torch", "transformers", "onnxruntime", "onnx")),
        ("openvino", "bert-tiny", "base", "static", ("torch", "transformers", "onnxruntime", "onnx")),
        ("eager", "gpt2-tiny", "lm", "default", ("onnxruntime", "onnx")),
        ("compile", "bert-tiny", "base", "freezing", ("onnxruntime", "onnx")),
    ],
)
def test_run_py_of_the_other_runtimes_agrees_with_the_references(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    backend: str, model: str, task: str, variant: str, blocked: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(samples, "SHAPES", (Shape(2, 9),))  # each is compiled twice
    bundle = bundle_of(artifacts, tmp_path / "bundle", backend, model, task, variant)
    found = differences(sys.executable, bundle, blocked)
    assert len(found) == 16
    assert max(found.values()) < 1e-5


def test_a_module_of_the_users_own_is_bundled_without_its_code(tmp_path: Path) -> None:
    from bench.run.experiment import model_of
    from bench.run.model import find_source
    from exporters.store import ArtifactStore

    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(Path(__file__).parent.parent / "exporters" / "own_cases.py", own / "own_cases.py")
    model = f"{own / 'own_cases.py'}:two"
    store = ArtifactStore(tmp_path / "artifacts")
    with in_this_process():
        source = find_source(model, store, threads=1)
        run = run_of("bert-tiny", (TORCHSCRIPT,), (Shape(1, 16), Shape(3, 5)))
        run.model = model_of(source)
        run.workload.options = replace(run.workload.options, module=model)
        made = deploy(run, tmp_path / "bundle", choose="torchscript", module=model, artifacts=tmp_path / "artifacts")
        shutil.rmtree(own)
        shutil.rmtree(tmp_path / "artifacts")
        found = verify_bundle(made.folder, envelope="strict", threshold=50, trust=True)
    assert found.judgement is not None
    assert found.judgement.verdict in ("exact", "equivalent")
    assert [(kept.batch, kept.length) for kept in found.kept] == [(1, 16), (3, 5)]
    assert all(kept.measured_ns for kept in found.kept)
    held = differences(sys.executable, made.folder, ("transformers", "onnxruntime"))
    assert {name.split()[-1] for name in held} == {"states", "pooled"}
    assert max(held.values()) < 1e-5
    assert not list(made.folder.rglob("own_cases.py"))
    for path in (*made.folder.rglob("*.json"), made.folder / "run.py"):
        if path.name not in ("manifest.json", "certificate.jsonl"):  # these name the model as the user did
            assert str(own) not in path.read_text(), path
