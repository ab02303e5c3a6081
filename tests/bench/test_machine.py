"""The fingerprint: complete, impersonal, light to take, and compared by its hardware facts alone."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import machine
from bench.errors import UserError
from bench.testing import HEAVY

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


def test_a_fingerprint_says_what_explains_a_figure(taken: dict[str, Any]) -> None:
    assert set(taken) == {
        "cpu", "cpus", "logical_cpus", "physical_cores", "architecture", "flags", "cache_bytes", "system", "hypervisor",
        "container", "python", "memory_bytes", "swap_used_bytes", "huge_pages", "governor", "boost_is_on", "smt_is_on",
        "cpu_quota", "busy_share", "load_average", "gpus", "environment", "versions", "commit", "is_dirty",
    }  # fmt: skip
    assert json.loads(json.dumps(taken)) == taken
    assert taken["cpu"]
    assert taken["memory_bytes"] > 0
    assert taken["gpus"] == [CARD]


def test_a_fingerprint_holds_no_path_and_no_name_of_a_person(
    taken: dict[str, Any], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    text = json.dumps(taken)
    assert str(Path.home()) + "/" not in text
    assert str(root) not in text
    assert os.uname().nodename not in [value for value in taken.values() if isinstance(value, str)]


def test_a_fact_that_the_system_hides_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)
    monkeypatch.setattr(machine.gpu, "cards", list)
    taken = machine.fingerprint(tmp_path)
    hidden = {
        "flags",
        "governor",
        "boost_is_on",
        "smt_is_on",
        "huge_pages",
        "swap_used_bytes",
        "cpu_quota",
        "load_average",
    }
    assert {name for name in hidden if taken[name] is not None} == set()


def test_taking_a_fingerprint_loads_nothing_heavy(root: Path) -> None:
    code = (
        "from bench import machine; from bench.machine import conditions\nmachine.fingerprint(); conditions.snapshot('cpu')\n"
        f"conditions.disturbances('cpu')\nimport sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Threads.


def test_the_thread_budget_is_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cpus", lambda: 6)
    assert [machine.thread_budget(asked) for asked in (None, 1, 6)] == [6, 1, 6]
    for asked in (0, 7, -1):
        with pytest.raises(UserError, match=rf"--threads {asked} is not within the 6 CPUs .*; use 1 to 6"):
            machine.thread_budget(asked)


# Versions.


def test_every_library_of_the_project_is_among_the_versions(root: Path) -> None:
    """Test tools decide no figure; everything else that pyproject.toml asks for does."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = (needs for name, needs in project["optional-dependencies"].items() if name not in ("test", "dev"))
    wanted = [*project["dependencies"], *(need for needs in extras for need in needs)]
    names = {re.split(r"[<>=!~\[; ]", need)[0].lower().replace("_", "-") for need in wanted} - {"nvidia-ml-py"}
    assert len(names) > 8
    assert names <= set(machine.DISTRIBUTIONS)


def test_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        def __init__(self, name: str | None, version: str) -> None:
            self.name, self.version = name, version

    installed = [
        Distribution("Torch", "2.13.0+cpu"),
        Distribution("torch", "1.0"),  # behind the other on the path
        Distribution("huggingface_hub", "2.4"),
        Distribution("nvidia-cudnn-cu12", "9.1"),
        Distribution("nvidia-ml-py", "13.6"),
        Distribution("pytest", "8"),
        Distribution("runtimebench", "0.0.1"),  # what an older checkout left behind
        Distribution(None, "a folder that pip left behind"),
    ]
    monkeypatch.setattr(machine, "distributions", lambda: installed)
    assert machine.versions() == {
        "huggingface-hub": "2.4",
        "nvidia-cudnn-cu12": "9.1",
        "nvidia-ml-py": "13.6",
        "runtimebench": bench.__version__,
        "torch": "2.13.0+cpu",
    }


def test_versions_of_this_environment() -> None:
    import importlib.metadata

    found = machine.versions()
    for name in ("torch", "transformers", "numpy", "onnx"):
        assert found[name] == importlib.metadata.version(name)


# Environment.


def test_settings_of_the_user_are_kept_and_nothing_else() -> None:
    settings = {
        "OMP_NUM_THREADS": "4",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "MKL_DYNAMIC": "FALSE",
        "GOMP_SPINCOUNT": "0",
        "OPENBLAS_NUM_THREADS": "2",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUDA_VISIBLE_DEVICES": "1,0",
    }
    others = {"HOME": "/home/someone", "HF_TOKEN": "secret", "USER": "someone", "OMP": "1", "MY_OMP_X": "1"}
    assert machine.environment(settings | others) == settings


def test_settings_hold_no_path_and_no_id_of_a_card() -> None:
    found = machine.environment(
        {
            "LD_PRELOAD": "/home/someone/lib/libjemalloc.so.2:/opt/libiomp5.so",
            "TORCHINDUCTOR_CACHE_DIR": "/home/someone/my cache",
            "TORCH_HOME": "~/torch",
            "CUDA_VISIBLE_DEVICES": "GPU-5a1b2c3d-1111-2222-3333-444455556666,MIG-GPU-5a1b2c3d/7/0",
        }
    )
    assert found == {
        "CUDA_VISIBLE_DEVICES": "GPU-(id),MIG-(id)",
        "LD_PRELOAD": "libjemalloc.so.2 libiomp5.so",
        "TORCHINDUCTOR_CACHE_DIR": "(path)",
        "TORCH_HOME": "(path)",
    }


# Commit.


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular."""
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed project with the three packages."""
    for package in ("bench", "backends", "exporters"):
        file = tmp_path / package / ("machine/__init__.py" if package == "bench" else "machine.py")
        file.parent.mkdir(parents=True)
        file.write_text("one = 1\n")
    (tmp_path / "README.md").write_text("read me\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_the_commit_of_a_clean_checkout(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "README.md").write_text("changed, and no code\n")
    assert machine.source_state(checkout / "bench") == {"commit": head, "is_dirty": False}


@pytest.mark.parametrize("name", ["bench/machine/__init__.py", "exporters/machine.py", "backends/new.py"])
def test_code_that_is_not_the_commits_is_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("two = 2\n")
    state = machine.source_state(checkout / "bench")
    assert state == {"commit": git(checkout, "rev-parse", "HEAD"), "is_dirty": True}


def test_a_project_within_a_larger_repository(checkout: Path) -> None:
    inner = checkout / "vendored"
    inner.mkdir()
    for package in ("bench", "backends", "exporters"):
        git(checkout, "mv", package, f"vendored/{package}")
    git(checkout, "commit", "--quiet", "--message", "moved")
    assert machine.source_state(inner / "bench")["is_dirty"] is False
    (inner / "backends" / "machine.py").write_text("two = 2\n")
    assert machine.source_state(inner / "bench")["is_dirty"] is True


def test_an_installed_copy_has_no_commit(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither within someone else's checkout, nor outside of any."""
    for top in (checkout / "venv", tmp_path_factory.mktemp("site-packages")):
        (top / "bench" / "machine").mkdir(parents=True)
        (top / "bench" / "machine" / "__init__.py").write_text("one = 1\n")
        assert machine.source_state(top / "bench") == {"commit": None, "is_dirty": None}


def test_a_hooks_git_variables_do_not_lead_astray(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("elsewhere")))
    assert machine.source_state(checkout / "bench")["commit"] == head


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.source_state(checkout / "bench") == {"commit": None, "is_dirty": None}


# Comparing.


def test_a_machine_is_the_same_as_itself_at_another_hour(taken: dict[str, Any]) -> None:
    later = copy.deepcopy(taken)
    later |= {"load_average": 9.0, "busy_share": 0.5, "swap_used_bytes": 1, "commit": "other", "is_dirty": True}
    later |= {"versions": {}, "environment": {"OMP_NUM_THREADS": "1"}, "governor": "powersave", "boost_is_on": False}
    later["gpus"][0] |= {
        "free_bytes": 1, "sm_clock_mhz": 210, "temperature_celsius": 88, "power_watts": 600.0, "other_processes": 3,
        "throttle_reasons": ["sw_power_cap"], "power_cap_watts": 300.0,
    }  # fmt: skip
    assert machine.same_machine(taken, later) == []


def test_an_older_fingerprint_of_the_same_machine_is_equal(taken: dict[str, Any]) -> None:
    """The keys that fingerprints had first."""
    kept = ("cpu", "cpus", "architecture", "system", "python", "memory_bytes", "governor", "busy_share", "versions")
    older = {name: taken[name] for name in kept}
    older["gpus"] = [{name: CARD[name] for name in ("name", "driver", "total_bytes")}]
    assert machine.same_machine(older, taken) == []
    assert machine.same_machine(taken, older) == []
    assert machine.same_machine({}, taken) == []


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
