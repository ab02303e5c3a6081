"""Mutants of a Python source tree: statements drawn uniformly by a seed, one small change in each.

Why no library: Cosmic Ray (8.7) and mutmut (3.8) are both maintained. Cosmic Ray's operators include no deleted
statement, no lost return value and no changed default, and bring thirteen packages, among them SQLAlchemy and aiohttp.
mutmut rewrites functions into trampolines, so the constants of a module are out of its reach. Neither draws uniformly
over statements. Replacing one node of a syntax tree in the text takes the page below.

Left out: imports, docstrings, annotations, decorators, strings with a space (messages), f-strings, what is raised or
asserted, and what needs a GPU or a runtime that a CPU machine lacks: a statement that matches `ELSEWHERE`, or that lies
in a file, class or function whose name matches, or under an `if` whose condition matches.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PRODUCT = ("bench", "backends", "exporters")
ELSEWHERE = re.compile(r"cuda|tensorrt|nvml|nvidia|optimum", re.IGNORECASE)
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
DELETABLE = (ast.Expr, ast.AugAssign, ast.Raise, ast.Delete, ast.Continue, ast.Break)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Statement:
    """A statement of the product; `lines` are its own, without those of a body."""

    file: str
    node: ast.stmt
    lines: range
    runs_at_import: bool


@dataclass(frozen=True)
class Mutant:
    """One change: bytes `start` to `end` of `file`, which read `before`, become `after`."""

    file: str
    line: int
    operator: str
    before: str
    after: str
    start: int
    end: int
    lines: range
    runs_at_import: bool

    @property
    def key(self) -> str:
        """Name that is the same in every run on the same tree."""
        return f"{self.file}:{self.line}:{self.start}:{self.operator}:{self.after}"

    def text(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def product_files(tree: Path) -> list[Path]:
    """The product's Python files, in a fixed order."""
    return sorted(file for package in PRODUCT for file in (tree / package).rglob("*.py"))


def statements(tree: Path) -> list[Statement]:
    """Every statement that may be mutated."""
    found: list[Statement] = []
    for path in product_files(tree):
        file = str(path.relative_to(tree))
        if not ELSEWHERE.search(file):
            found += _within(ast.parse(path.read_bytes()).body, file, runs_at_import=True)
    return found


def _within(body: Sequence[ast.stmt], file: str, runs_at_import: bool) -> Iterator[Statement]:
    for node in body:
        inner = [statement for block in _blocks(node) for statement in block]
        last = max(node.lineno, min((s.lineno for s in inner), default=(node.end_lineno or node.lineno) + 1) - 1)
        own = "".join(ast.unparse(part) for part in _own_expressions(node))
        name = node.name if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else ""
        elsewhere = ELSEWHERE.search(name + own)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (elsewhere or is_docstring or own == "TYPE_CHECKING"):
            yield Statement(file, node, range(node.lineno, last + 1), runs_at_import)
        for block in _blocks(node):
            if not (elsewhere and block is getattr(node, "body", None)):
                yield from _within(block, file, runs_at_import and not isinstance(node, FUNCTIONS))


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        if block := getattr(node, field, None):
            yield block
    for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
        yield part.body


def _own_expressions(node: ast.stmt) -> list[ast.expr]:
    """What a statement evaluates itself, without decorators and annotations."""
    if isinstance(node, FUNCTIONS):
        return [*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]
    if isinstance(node, ast.ClassDef):
        return []
    left_out = {getattr(node, "annotation", None)}
    found = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr) and child not in left_out]
    return found + [item.context_expr for item in getattr(node, "items", [])]


def _expressions(roots: Sequence[ast.AST]) -> Iterator[ast.expr]:
    for root in roots:
        if isinstance(root, ast.expr):
            yield root
        if not isinstance(root, ast.JoinedStr):
            yield from _expressions(list(ast.iter_child_nodes(root)))


def changes(node: ast.stmt) -> list[tuple[str, ast.AST, str]]:
    """Each operator that applies to a statement, the node that it replaces and by what text."""
    found: list[tuple[str, ast.AST, str]] = []
    if isinstance(node, ast.If | ast.While):
        found.append(("condition negated", node.test, f"not ({ast.unparse(node.test)})"))
    if isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        found.append(("returns None", node.value, "None"))
    if isinstance(node, DELETABLE):
        found.append(("statement deleted", node, "pass"))
    if isinstance(node, ast.Raise | ast.Assert):
        return found
    for part in _expressions(_own_expressions(node)):
        found += [(operator, part, text) for operator, text in _replacements(part)]
    prefix = "default: " if isinstance(node, FUNCTIONS) else ""
    return [(prefix + operator, part, text) for operator, part, text in found]


def _replacements(node: ast.expr) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare():
            for index, operation in enumerate(node.ops):
                ops = [*node.ops[:index], COMPARISONS[type(operation)](), *node.ops[index + 1 :]]
                yield "comparison", f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})"
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and / or", f"({ast.unparse(ast.BoolOp(other, node.values))})"
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield "arithmetic", f"({ast.unparse(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))})"
        case ast.UnaryOp(op=ast.Not()):
            yield "not removed", f"({ast.unparse(node.operand)})"
        case ast.IfExp():
            negated = ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
            yield "condition negated", f"({ast.unparse(negated)})"
        case ast.Constant(value=bool() as value):
            yield "boolean", repr(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant off by one", repr(value + 1)
        case ast.Constant(value=str() as value) if value and " " not in value:
            yield "text emptied", '""'


def draw(tree: Path, seed: int, count: int) -> list[Mutant]:
    """The first `count` mutants of this seed, so that a shorter draw is the start of a longer one."""
    chance, pool = random.Random(seed), statements(tree)
    chance.shuffle(pool)
    drawn: list[Mutant] = []
    for statement in pool:
        if len(drawn) == count:
            break
        if not (candidates := changes(statement.node)):
            continue
        source = (tree / statement.file).read_bytes()
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        operator, node, after = chance.choice(candidates)
        start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        mutant = Mutant(
            statement.file, node.lineno, operator, source[start:end].decode(), after, start, end,  # type: ignore[attr-defined]
            statement.lines, statement.runs_at_import or isinstance(statement.node, FUNCTIONS),
        )  # fmt: skip
        if ast.dump(ast.parse(mutant.text(source))) != ast.dump(ast.parse(source)):
            drawn.append(mutant)
    return drawn
