"""Names and reasons that others wrote: nothing in them reaches a terminal, a spreadsheet or a page as more than text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli.streams import Plain
from bench.report import console
from bench.report.documents import as_csv, as_json, as_markdown
from bench.run.file import read_run
from bench.run.record import Model, Run
from bench.untrusted import csv_text, markdown, plain, plain_but_styles, short
from tests.made import record, run_of, write

HOSTILE = [chr(number) for number in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))]
HOSTILE += [chr(number) for number in range(0x2066, 0x206A)]
ESCAPES = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\u2066b\x7f\r"
NAME = f"=cmd|' /C calc'!A0{ESCAPES}![x](https://evil.example/p.png)<img src=x onerror=alert(1)>"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def hostile(tmp_path: Path) -> Run:
    """A run file with such a name for the model, its origin, a backend, a variant, a reason and what a fact holds."""
    rows = [record("eager", verdict="original"), record("onnx", status="failed", reason=NAME)]
    rows[0] = replace(rows[0], facts={"providers": [NAME], "versions": {"x": NAME}})
    run = run_of(rows, model=Model(NAME, NAME, "random", "checkpoint-0", "base"))
    candidate = replace(rows[1].candidate, variant=NAME)
    run = replace(run, candidates=(rows[0].candidate, candidate))
    run.records[1] = replace(rows[1], candidate=candidate)
    return read_run(write(run, tmp_path / "run.jsonl"))


@pytest.mark.parametrize("one", HOSTILE, ids=lambda one: f"{ord(one):04x}")
def test_no_such_character_is_shown_as_it_is(one: str) -> None:
    assert plain(f"a{one}b") == f"a\\u{ord(one):04x}b"
    assert plain_but_styles(f"a{one}b") == f"a\\u{ord(one):04x}b"
    assert json.loads(f'"{plain(one)}"') == one


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Größe 2×3 – ünï 模型 é🙂\tx\ny"
    assert plain(text) == plain_but_styles(text) == text


def test_a_terminal_takes_colours_and_nothing_else() -> None:
    assert plain_but_styles("\x1b[1;31mred\x1b[0m") == "\x1b[1;31mred\x1b[0m"
    for escape in ("\x1b[8m", "\x1b[2J", "\x1b]8;;http://a\x07", "\x1b[7m", "\x1b[1;8m", "\x1bc"):
        assert "\x1b" not in plain_but_styles(escape)


@pytest.mark.parametrize("render", [console.render, as_markdown, as_csv])
def test_no_report_has_control_characters(render: Callable[[Run], str], hostile: Run) -> None:
    text = render(hostile)
    assert not UNSAFE.search(text)
    assert "\\u001b" in text


def test_the_json_holds_the_name_as_it_is(hostile: Run) -> None:
    assert json.loads(as_json(hostile))["model"]["name"] == NAME


def test_markdown_has_no_link_no_image_and_no_html(hostile: Run) -> None:
    text = as_markdown(hostile)
    assert not re.search(r"(?<!\\)!?\[", text)
    assert "<img" not in text
    assert "://" not in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("[a](b)", r"\[a\](b)"), ("a\\|b", r"a\\\|b"), ("`x`", r"\`x\`"), ("https://a.b", "https&#58;//a.b"),
        ("www.a.b", "www&#46;a.b"), ("mailto:a@b.c", "mailto&#58;a@b.c"), ("1x128: 2.5", "1x128: 2.5"), ("<a&", "&lt;a&amp;"),
    ],
)  # fmt: skip
def test_markdown_of(text: str, escaped: str) -> None:
    assert markdown(text) == escaped


def test_csv_has_no_formula_and_numbers_stay_numbers(hostile: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(hostile))))
    cells = [cell for row in rows for cell in row.values()]
    assert any(cell.startswith("'=cmd") for cell in cells)
    assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in cells)
    assert float(rows[0]["median_ms"]) == pytest.approx(10)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", " =1", "\n=1", "\uff1d1"])
def test_a_text_that_begins_as_a_formula_is_quoted(text: str) -> None:
    assert csv_text(text).startswith("'")
    assert not csv_text("a=1").startswith("'")


def test_a_number_below_zero_is_no_formula() -> None:
    from bench.report.documents import _csv_cell

    assert _csv_cell(-1.5) == -1.5


def test_the_page_and_images_hold_no_markup_of_a_name(hostile: Run) -> None:
    import base64
    import gzip

    from bench.report.page import render

    text = render.page([hostile])
    assert not UNSAFE.search(text)
    assert "<img src=x" not in text
    (packed,) = re.findall(r'id="specs"[^>]*>\s*([A-Za-z0-9+/=]+)', text) or [""]
    assert packed
    assert not UNSAFE.search(json.dumps(json.loads(gzip.decompress(base64.b64decode(packed))), ensure_ascii=False))


def test_the_command_line_writes_no_such_character(cli: Any, tmp_path: Path, hostile: Run) -> None:
    """In reports, and in an error line that names what was given."""
    for arguments in (["report", str(hostile.path)], ["show", str(hostile.path)], ["compare", "--model", ESCAPES]):
        done = cli(*arguments)
        assert not UNSAFE.search(done.stdout + done.stderr), arguments


def test_a_stream_shows_colours_to_a_terminal_alone() -> None:
    file = io.StringIO()
    print("\x1b[31ma\x1b[0m", file=Plain(file))  # type: ignore[arg-type]
    assert file.getvalue() == "\\u001b[31ma\\u001b[0m\n"


def test_a_long_value_is_cut_and_its_length_told() -> None:
    assert short(f"unknown model {'a' * 100_000!r}; use another") == (
        f"unknown model '{'a' * 100}…' (100,000 characters); use another"
    )
    assert len(short("no " + "a b " * 50_000 + "; remedy")) < 4000
    assert short("no " + "a b " * 50_000 + "; remedy").endswith("; remedy")
    line = "output file '/a/b/c.jsonl' exists; give another --output"
    assert short(line) == line
