"""The fingerprint: complete, impersonal, light to take, and compared by its hardware facts alone."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bench
from bench import machine
from bench.errors import UserError

CARD = {
    "name": "NVIDIA H100 80GB HBM3",
    "driver": "580.65.06",
    "total_bytes": 80 * 2**30,
    "free_bytes": 79 * 2**30,
    "compute_capability": "9.0",
    "is_mig": False,
    "sm_clock_mhz": 1980,
    "temperature_celsius": 40,
    "power_watts": 120.0,
    "throttle_reasons": ["gpu_idle"],
    "other_processes": 0,
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A fingerprint of this machine, with one GPU."""
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)
    monkeypatch.setattr(machine.gpu, "cards", lambda: [dict(CARD)])
    return machine.fingerprint()


def test_a_fingerprint_says_what_explains_a_figure_and_no_path_and_no_name_of_a_person(
    taken: dict[str, Any], monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    assert set(taken) == {
        "cpu", "cpus", "logical_cpus", "physical_cores", "architecture", "flags", "cache_bytes", "system", "hypervisor",
        "container", "python", "memory_bytes", "swap_used_bytes", "huge_pages", "governor", "boost_is_on", "smt_is_on",
        "cpu_quota", "busy_share", "load_average", "gpus", "environment", "versions", "commit", "is_dirty",
    }  # fmt: skip
    assert json.loads(json.dumps(taken)) == taken
    assert taken["cpu"]
    assert taken["memory_bytes"] > 0
    assert taken["gpus"] == [CARD]
    text = json.dumps(taken)
    assert str(Path.home()) + "/" not in text
    assert str(root) not in text
    assert os.uname().nodename not in [value for value in taken.values() if isinstance(value, str)]
    hiding = machine.fingerprint(tmp_path)
    names = ("flags", "governor", "boost_is_on", "smt_is_on", "huge_pages", "swap_used_bytes", "cpu_quota")
    assert {name for name in names if hiding[name] is not None} == set()


# Threads.


def test_the_thread_budget_is_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 6)
    assert [machine.thread_budget(asked) for asked in (None, 1, 6)] == [6, 1, 6]
    for asked in (0, 7, -1):
        with pytest.raises(UserError, match=rf"--threads {asked} is not within the 6 CPUs .*; use 1 to 6"):
            machine.thread_budget(asked)


# Versions.


def test_every_library_of_the_project_is_among_the_versions(root: Path) -> None:
    """Test tools decide no figure; everything else that pyproject.toml asks for does, but for two readers."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = (needs for name, needs in project["optional-dependencies"].items() if name not in ("test", "dev"))
    wanted = [*project["dependencies"], *(need for needs in extras for need in needs)]
    names = {re.split(r"[<>=!~\[; ]", need)[0].lower().replace("_", "-") for need in wanted} - {
        "nvidia-ml-py",
        "packaging",
    }
    assert len(names) > 8
    assert names <= set(machine.DISTRIBUTIONS)
    found = machine.versions()
    for name in ("torch", "transformers", "numpy", "onnx"):
        assert found[name] == importlib.metadata.version(name)


def test_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {
        "Torch": "2.13.0+cpu",
        "torch": "1.0",  # behind the other on the path
        "huggingface_hub": "2.4",
        "nvidia-cudnn-cu12": "9.1",
        "nvidia-ml-py": "13.6",
        "pytest": "8",
        "runtimebench": "0.0.1",  # what an older checkout left behind
        None: "a folder that pip left behind",
    }
    distributions = [SimpleNamespace(name=name, version=version) for name, version in installed.items()]
    monkeypatch.setattr(machine, "distributions", lambda: distributions)
    assert machine.versions() == {
        "huggingface-hub": "2.4", "nvidia-cudnn-cu12": "9.1", "nvidia-ml-py": "13.6",
        "runtimebench": bench.__version__, "torch": "2.13.0+cpu",
    }  # fmt: skip


# Environment.


def test_settings_of_the_user_are_kept_without_paths_and_ids_of_cards_and_nothing_else() -> None:
    settings = {
        "OMP_NUM_THREADS": "4", "KMP_AFFINITY": "granularity=fine,compact,1,0", "MKL_DYNAMIC": "FALSE",
        "GOMP_SPINCOUNT": "0", "OPENBLAS_NUM_THREADS": "2", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "NVIDIA_TF32_OVERRIDE": "0", "CUDA_VISIBLE_DEVICES": "1,0",
    }  # fmt: skip
    others = {"HOME": "/home/someone", "HF_TOKEN": "secret", "USER": "someone", "OMP": "1", "MY_OMP_X": "1"}
    assert machine.environment(settings | others) == settings
    assert machine.environment(
        {
            "LD_PRELOAD": "/home/someone/lib/libjemalloc.so.2:/opt/libiomp5.so",
            "TORCHINDUCTOR_CACHE_DIR": "/home/someone/my cache",
            "TORCH_HOME": "~/torch",
            "CUDA_VISIBLE_DEVICES": "GPU-5a1b2c3d-1111-2222-3333-444455556666,MIG-GPU-5a1b2c3d/7/0",
        }
    ) == {
        "CUDA_VISIBLE_DEVICES": "GPU-(id),MIG-(id)", "LD_PRELOAD": "libjemalloc.so.2 libiomp5.so",
        "TORCHINDUCTOR_CACHE_DIR": "(path)", "TORCH_HOME": "(path)",
    }  # fmt: skip


# Commit.


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular."""
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_and_whether_its_code_is_that_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, nothing = tmp_path / "checkout", {"commit": None, "is_dirty": None}
    for name in ("bench/machine/__init__.py", "backends/machine.py", "exporters/machine.py", "README.md"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("one = 1\n")
    assert machine.source_state(top / "bench") == nothing  # outside of any checkout
    git(top, "init", "--quiet")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "--message", "first")
    head = git(top, "rev-parse", "HEAD")
    (top / "README.md").write_text("changed, and no code\n")
    assert machine.source_state(top / "bench") == {"commit": head, "is_dirty": False}
    for name in ("bench/machine/__init__.py", "exporters/machine.py", "backends/new.py"):
        (top / name).write_text("two = 2\n")
        assert machine.source_state(top / "bench") == {"commit": head, "is_dirty": True}
        git(top, "stash", "--include-untracked", "--quiet")
    (top / "venv/bench/machine").mkdir(parents=True)
    (top / "venv/bench/machine/__init__.py").write_text("an installed copy within someone else's checkout\n")
    assert machine.source_state(top / "venv/bench") == nothing
    with monkeypatch.context() as patch:  # as inside a hook of another checkout
        patch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
        assert machine.source_state(top / "bench")["commit"] == head
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        assert machine.source_state(top / "bench") == nothing

    (top / "vendored").mkdir()  # a project within a larger repository
    git(top, "mv", "bench", "backends", "exporters", "vendored")
    git(top, "commit", "--quiet", "--message", "moved")
    assert machine.source_state(top / "vendored/bench")["is_dirty"] is False
    (top / "vendored/backends/machine.py").write_text("two = 2\n")
    assert machine.source_state(top / "vendored/bench")["is_dirty"] is True


# Comparing.


def test_a_machine_is_the_same_as_itself_at_another_hour_and_by_an_older_fingerprint(taken: dict[str, Any]) -> None:
    later = copy.deepcopy(taken)
    later |= {"load_average": 9.0, "busy_share": 0.5, "swap_used_bytes": 1, "commit": "other", "is_dirty": True}
    later |= {"versions": {}, "environment": {"OMP_NUM_THREADS": "1"}, "governor": "powersave", "boost_is_on": False}
    later["gpus"][0] |= {
        "free_bytes": 1, "sm_clock_mhz": 210, "temperature_celsius": 88, "power_watts": 600.0, "other_processes": 3,
        "throttle_reasons": ["sw_power_cap"], "power_cap_watts": 300.0,
    }  # fmt: skip
    # The keys that fingerprints had first.
    kept = ("cpu", "cpus", "architecture", "system", "python", "memory_bytes", "governor", "busy_share", "versions")
    older = {name: taken[name] for name in kept}
    older["gpus"] = [{name: CARD[name] for name in ("name", "driver", "total_bytes")}]
    for one in (later, older, {}):
        assert machine.same_machine(one, taken) == machine.same_machine(taken, one) == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"cpu": "Another CPU"}, ["cpu"]),
        ({"cpus": 1000, "architecture": "riscv64"}, ["cpus", "architecture"]),
        ({"flags": ["avx2"]}, ["flags"]),
        ({"logical_cpus": 1000}, ["logical_cpus"]),
        ({"gpus": []}, ["gpus"]),
        ({"gpus": [CARD, CARD]}, ["gpus"]),
        ({"gpus": [CARD | {"name": "NVIDIA A100"}]}, ["gpus"]),
        ({"gpus": [CARD | {"total_bytes": 1}]}, ["gpus"]),
        ({"gpus": [CARD | {"compute_capability": "8.0"}]}, ["gpus"]),
        ({"gpus": [CARD | {"driver": "1", "power_cap_watts": 1.0}]}, []),  # which explains a change, and is one machine
        ({"gpus": "altered"}, ["gpus"]),
    ],
)
def test_other_hardware_is_another_machine(taken: dict[str, Any], change: dict[str, Any], names: list[str]) -> None:
    assert machine.same_machine(taken, taken | change) == names
    assert machine.same_machine(taken | change, taken) == names
