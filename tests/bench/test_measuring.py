"""Functions of the API that are made from options, and the reference pages that are made from commands."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import bench
from bench import measuring
from bench.cli import reference
from bench.errors import UserError
from bench.run import registry
from tests import toy

QUICK = {"device": "cpu", "threads": 1, "rounds": 2, "max_seconds_per_cell": 0.05, "warmup": "1ms", "max_warmup": 0.002}


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_functions_signature_and_documentation_have_every_option(name: str) -> None:
    workload = registry.load_class(name)
    function = getattr(measuring, measuring.name_of(workload))
    parameters = inspect.signature(function).parameters
    options = {one.name: one for one in workload.Options.declared()}
    assert set(parameters) == {"model", "make_inputs", "listener", *options}
    assert [one for one, found in parameters.items() if found.kind is not inspect.Parameter.KEYWORD_ONLY] == ["model"]
    documented = inspect.getdoc(function) or ""
    assert documented.startswith(workload.Options.summary)
    assert workload.Options.summary
    for option in options.values():
        assert option.metadata["option"].help.endswith("."), option.name
        if option.name != "model":
            assert parameters[option.name].default == option.default
            assert f"\n    {option.name}: " in documented


def test_names_of_functions() -> None:
    names = [measuring.name_of(registry.load_class(name)) for name in registry.BUILT_IN]
    assert {"compare", "generate", "measure_corpus", "measure_load", "measure_memory"} <= {*names}
    assert len({*names}) == len(names)
    with pytest.raises(AttributeError, match="no attribute 'measure_nothing'"):
        _ = bench.measure_nothing


def test_a_third_partys_workload_has_its_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "toy", toy.HOME)
    monkeypatch.setattr(measuring, "measure_toy", None, raising=False)  # forgotten when the test ends
    monkeypatch.delattr(measuring, "measure_toy")
    output = tmp_path / "run.jsonl"
    places = {"output": output, "artifacts": tmp_path}
    run = bench.measure_toy("bert-tiny", backends="null", batches=[1], lengths="8", colours="red", **places, **QUICK)
    assert run.options.colours == ("red",)
    assert run.exit_code == 0
    again = measuring.read_run(str(output))
    assert again.rows() == run.rows()
    assert again.is_complete
    assert measuring.resume(output, artifacts=str(tmp_path)).records == again.records


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batchez": [1]}, "unknown option 'batchez'; did you mean 'batches'"),
        ({"batches": [0]}, "--batches 0 is below 1"),
        ({"rounds": 2.5}, "--rounds '2.5' is not a whole number"),
        ({"tf32": "yes"}, "--tf32 'yes' is neither True nor False"),
        ({"model": "bert-tiny", "module": "file.py:make"}, "--model cannot be given with --module"),
        ({"model": object(), "module": "file.py:make"}, "are two models; leave one out"),
        ({"model": 5}, "int is no model"),
        ({"model": "bert-tinny"}, "did you mean 'bert-tiny'"),
        ({"model": "bert-tiny", "backends": ["nul"]}, "did you mean 'null'"),
    ],
)
def test_a_mistake_is_a_user_error(given: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        measuring.compare(**given, artifacts=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


# Reference pages.


def test_the_reference_is_what_the_commands_are(root: Path, tmp_path: Path) -> None:
    folder = root / "docs" / "reference"
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    made = reference.pages()
    (tmp_path / "gone.md").write_text("")
    reference.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(made)  # pages of commands that are gone are removed
    assert set(present) == set(made), "run: python -m bench.cli.reference"
    for name, page in made.items():
        assert present[name] == page, f"{name} has drifted; run: python -m bench.cli.reference"


def test_a_page_has_a_row_for_each_option_that_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "toy", toy.HOME)
    page = reference.pages()["toy.md"]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `--")]
    names = [row[0].removeprefix("| ") for row in rows]
    for one in toy.ToyOptions.declared():
        assert sum(f"`--{one.name.replace('_', '-')}`" in name for name in names) == 1, one.name
    assert "| `--max-toys` | `N` | 4 | Toys at once. |" in page
    assert "| `--loud` / `--no-loud` |  | loud | Play loudly. |" in page
    assert "| `--resume` | `FILE` |" in page
    assert "most-toys" not in page
    assert "`bench list presets`" in next(row[3] for row in rows if "--preset" in row[0])
