"""The shape of the house: import directions, a light parent process, public names, the README's promises."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from bench.testing import HEAVY


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module or "")
    return found


def test_transformers_is_imported_in_one_place_and_the_workers_entry_in_none(root: Path) -> None:
    users = {
        str(path.relative_to(root))
        for part in ("backends", "exporters", "bench")
        for path in (root / part).rglob("*.py")
        if any(module.split(".")[0] == "transformers" for module in imported_modules(path))
    }
    assert users == {"exporters/models.py"}
    for path in sources(root, "bench", "backends", "exporters", "tests", "benchmarks"):
        assert "bench.worker" not in imported_modules(path), f"{path} imports the worker's entry"


#: What a parent process may import and run.
LIGHT = {
    "package": "import bench",
    "modules": "from importlib import import_module as take\nfrom pathlib import Path\n"
    "for path in (one for part in ('bench', 'backends', 'exporters') for one in Path(part).rglob('[a-z_]*.py')):\n"
    "    if path.name not in ('worker.py', '__main__.py'): take('.'.join(path.with_suffix('').parts))",
    "run": "import bench, tempfile; bench.compare('bert-tiny', backends='null', batches=[1], lengths=[8], device='cpu',"
    " artifacts=tempfile.mkdtemp(), rounds=1, max_seconds_per_cell=0.01).rows()",
    "list": "import sys; sys.argv = ['bench', 'list', 'backends']\nfrom bench.cli import main\ntry: main()\nexcept SystemExit: pass",
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT)
def test_the_parent_process_stays_light(root: Path, code: str) -> None:
    report = f"{code}\nimport sys\nprint('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def sources(root: Path, *parts: str) -> list[Path]:
    found = [path for part in parts for path in sorted((root / part).rglob("*.py"))]
    assert len(found) > 20
    return found


def test_the_path_of_one_batch_is_true(root: Path) -> None:
    """Each hop that CONTRIBUTING.md lists names a function that is there."""
    text = (root / "CONTRIBUTING.md").read_text()
    hops = re.findall(r"^[0-9]+\. `([a-z_/]+\.py)`: `(\w+)`", text, re.MULTILINE)
    assert 10 < len(hops) <= 20
    for file, function in hops:
        defined = {
            node.name for node in ast.walk(ast.parse((root / file).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert function in defined, f"{file} has no {function}"


def test_no_workload_is_known_by_name_outside_workloads(root: Path) -> None:
    """A question for a workload's name is a hook that the interface lacks; design.md."""
    for path in sources(root, "bench"):
        if path.parent.name == "workloads":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                is_of_two = sum(side.endswith("workload.name") for side in sides) == 2
                known = any(side.endswith(("workload.name", "workload_class.name")) for side in sides)
                assert is_of_two or not known, f"{path.relative_to(root)}:{node.lineno}"


def test_no_file_is_longer_than_400_lines(root: Path) -> None:
    for path in sources(root, "bench", "backends", "exporters"):
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(root)


def test_public_names() -> None:
    import bench
    import bench.choose.api
    import bench.tune.api

    assert set(bench.__all__) == {
        "BenchError", "Bundle", "BundleVerification", "Choice", "Record", "Run",
        "Study", "Traffic", "Tuning", "UserError", "check_parity", "choose", "compare", "deploy", "generate", "judge_study", "measure_corpus", "measure_load", "measure_memory",
        "read_run", "resume", "tune", "verify", "verify_bundle", "write_study",
    }  # fmt: skip
    for name in bench.__all__:  # a package of that name does not hide the function, once it is imported
        assert getattr(bench, name) is getattr(bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bench.nonsense


def test_one_version_everywhere(root: Path) -> None:
    import bench

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == bench.__version__
    assert f"## [{bench.__version__}]" in (root / "CHANGELOG.md").read_text()
    assert project["scripts"] == dict.fromkeys(("bench", "runtimebench"), "bench.__main__:main")


def test_every_dependency_is_pinned_by_the_constraints(root: Path) -> None:
    def name_of(need: str) -> str:
        return re.split(r"[<>=!~\[;]", need)[0].strip().lower().replace("_", "-")

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = {name_of(line) for line in (root / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert set(map(name_of, wanted)) <= pinned


#: The README and the guides; docs/reference is generated, and docs/study.md ends with a page that a command wrote.
GUIDES = ("README.md", *sorted(f"docs/{path.name}" for path in (Path(__file__).parents[1] / "docs").glob("*.md")))


@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_of_the_readme_and_guides_are_real(root: Path, guide: str, cli_here) -> None:
    """Every `bench …` line in a shell block parses: its subcommand exists and has each option given."""
    text = (root / guide).read_text().partition("## The pages")[0]
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("bench ")
    ]
    assert len(lines) >= 4 or guide != "README.md"
    for line in lines:
        words = line.split("#")[0].split()
        commands = [word for word in words[1:3] if not word.startswith("-") and "." not in word and "/" not in word]
        for size in (2, 1):
            done = cli_here(*commands[:size], "--help")
            if done.returncode == 0:
                break
        assert done.returncode == 0, line
        for option in re.findall(r"--[a-z][a-z0-9-]+", line):
            assert option in done.stdout, f"{option} of {line!r}"


def anchors(text: str) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", [*GUIDES, "CONTRIBUTING.md"])
def test_links_of_the_readme_and_guides_resolve(root: Path, guide: str) -> None:
    page = root / guide
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), f"{target} of {guide}"
        assert not anchor or anchor in anchors(found.read_text()), f"{target} of {guide}"


def test_the_readme_is_short_its_targets_exist_and_no_figure_is_left_open(root: Path) -> None:
    readme, makefile = (root / "README.md").read_text(), (root / "Makefile").read_text()
    assert len(readme.splitlines()) <= 200
    targets = set(re.findall(r"`make ([a-z-]+)`", readme))
    assert {"compare", "install", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        assert not re.search(r"@[A-Z_]+@", path.read_text()), path


def test_nothing_of_one_machine_is_committed(root: Path) -> None:
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    home = str(Path.home())
    for name in done.stdout.splitlines():
        path = root / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".jsonl", ""} and path.is_file():
            text = path.read_text(errors="ignore")
            assert home + "/" not in text, name
            assert str(root) + "/" not in text, name


def test_the_wheel_holds_the_three_packages_their_presets_and_nothing_else(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".venv", ".git", "artifacts", "*.egg-info", "__pycache__", "build")
    shutil.copytree(root, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("runtimebench-*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        licences = [name for name in wheel.namelist() if name.endswith("LICENSE")]
    expected = {
        str(path.relative_to(root))
        for part in ("bench", "backends", "exporters")
        for path in (root / part).rglob("*.py")
    }
    expected |= {f"{part}/py.typed" for part in ("bench", "backends", "exporters")}
    presets = {"seed-bert.toml", "seed-gpt.toml", "seed-gpt2-medium.toml", "study.toml"}
    presets |= {"figures/rtx3090.json", "figures/rtx3090-memory.json"}
    templates = {
        f"bench/bundle/templates/{name}.template"
        for name in ("checkpoint", "onnx", "openvino", "openvino_static", "torchscript")
    }
    templates |= {f"bench/report/page/templates/page.{suffix}" for suffix in ("html", "css", "js")}
    templates |= {"backends/requirements/optimum.txt", "bench/study/claims.toml"}
    assert names == expected | templates | {f"bench/workloads/presets/{name}" for name in presets}
    assert licences


def test_every_committed_run_can_be_read_and_says_how_it_was_made(root: Path) -> None:
    from bench.run.file import read_run

    paths = sorted((root / "artifacts" / "reference").glob("*.jsonl"))
    assert paths
    for path in paths:
        header = json.loads(path.read_text().splitlines()[0])
        if header["kind"] == "regret":  # of benchmarks/regret.py: the grid that it chose from lies beside it
            assert (path.parent / Path(header["grid"]).name).is_file()
            assert header["command"].startswith("bench compare --model")
            continue
        run = read_run(path)
        command = run.options.command
        assert run.is_complete
        assert run.command.startswith(f"bench {command} --model")
        assert run.fingerprint["versions"]["torch"]
