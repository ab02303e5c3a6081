"""The mutants that benchmarks/mutations.py draws: which statements, which changes, the same for the same seed."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = "mutations"
SOURCE = '''"""Docstring."""
import os

LIMIT = len("ä" * 4)


def larger(size: int, name: str = "tiny", *, on_cuda: bool = False) -> str:
    """Docstring."""
    if size > LIMIT and not name:
        raise ValueError("too large")
    if on_cuda:
        size += 1
    size -= 2
    return f"{name} is" + "small"


def cuda_cards() -> int:
    return 8
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "ä_sizes.py").write_text(SOURCE)
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "tensorrt.py").write_text(SOURCE)
    return tmp_path


def test_every_statement_is_mutated_by_what_applies_to_it(script: ModuleType, tree: Path) -> None:
    found = {
        (ast.unparse(statement.node).splitlines()[0], operator, after)
        for statement in script.statements(tree)
        for operator, _, after in script.changes(statement.node)
    }
    condition, header = (
        "if size > LIMIT and (not name):",
        "def larger(size: int, name: str='tiny', *, on_cuda: bool=False) -> str:",
    )
    assert found == {
        ("LIMIT = len('ä' * 4)", "arithmetic", "('ä' / 4)"),
        ("LIMIT = len('ä' * 4)", "text emptied", '""'),
        ("LIMIT = len('ä' * 4)", "constant off by one", "5"),
        (header, "default: text emptied", '""'),
        (header, "default: boolean", "True"),
        (condition, "condition negated", "not (size > LIMIT and (not name))"),
        (condition, "and / or", "(size > LIMIT or not name)"),
        (condition, "comparison", "(size >= LIMIT)"),
        (condition, "not removed", "(name)"),
        ("raise ValueError('too large')", "statement deleted", "pass"),
        ("size -= 2", "statement deleted", "pass"),
        ("size -= 2", "constant off by one", "3"),
        ("return f'{name} is' + 'small'", "returns None", "None"),
        ("return f'{name} is' + 'small'", "arithmetic", "(f'{name} is' - 'small')"),
        ("return f'{name} is' + 'small'", "text emptied", '""'),
    }


def test_a_shorter_draw_is_the_start_of_a_longer_one(script: ModuleType, tree: Path) -> None:
    whole = script.draw(tree, 0, 100)
    assert whole[:3] == script.draw(tree, 0, 3)
    assert whole != script.draw(tree, 1, 100)
    assert len({mutant.lines for mutant in whole}) == len(whole) == 6


def test_a_mutant_replaces_its_own_text_alone(script: ModuleType, tree: Path) -> None:
    seen = set()
    for seed in range(20):
        for mutant in script.draw(tree, seed, 100):
            source = (tree / mutant.file).read_bytes()
            assert source[mutant.start : mutant.end].decode() == mutant.before
            assert mutant.before in SOURCE.splitlines()[mutant.line - 1]
            if SOURCE.count(mutant.before) == 1:
                assert mutant.text(source).decode() == SOURCE.replace(mutant.before, mutant.after)
            seen.add((mutant.before, mutant.after))
    assert ("4", "5") in seen
