"""The page: what it says of odd runs, that nothing of a record becomes markup, and how it behaves in a real browser."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.records import Record, Run
from bench.report import markdown
from bench.report.old_page import cost_plots, images, render
from bench.report.old_page.answer import answer
from bench.report.old_page.entries import entries, evenly, names
from bench.report.page.charts import COLOURS, SYMBOLS
from bench.runfile import read_run
from bench.spec import Candidate, Grid, Shape, TimingPlan
from benchmarks import page_image

MS = 1_000_000
REFERENCE = "epyc2-20261123-bert-intervals.jsonl"
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;{{ 7*7 }}"


def record(backend: str, batch: int = 1, length: int = 16, ms: float = 10.0, **values: Any) -> Record:
    precision = values.pop("precision", "fp32")
    fields: dict[str, Any] = {
        "rounds": [[round(ms * MS * (1 + 0.002 * (index % 3)))] for index in range(9)],
        "parity": {
            "verdict": "equivalent", "max_abs_error": 2e-6, "max_abs_at": [0, 3, 7], "output": "last_hidden_state",
            "case": "padded", "rmse": 1e-7, "rmse_eager": 2e-7, "min_cosine": 0.999999,
        },
        "load_seconds": 0.5, "export_seconds": 3.0, "first_call_ns": round(3 * ms * MS), "repeat": "bench compare --one",
        "memory": {"loaded": {"process_bytes": 2**28, "parameters_bytes": 2**27}, "peak": {"peak_process_bytes": 2**29}},
    }  # fmt: skip
    return Record("bert", backend, "default", precision, "cpu", batch, length, **({"status": "ok"} | fields | values))


def failed(backend: str, batch: int, length: int, reason: str = "killed by SIGKILL", status: str = "failed") -> Record:
    nothing: dict[str, Any] = {"rounds": [], "parity": {}, "memory": {}, "load_seconds": None, "first_call_ns": None}
    return record(backend, batch, length, status=status, reason=reason, **nothing)


def made(records: list[Record], /, **values: Any) -> Run:
    contestants = tuple(dict.fromkeys(entry.contestant for entry in records))
    shapes = tuple(sorted({entry.shape for entry in records}))
    run = Run(
        Grid("bert", contestants, values.pop("shapes", shapes), "cpu", 2), TimingPlan(), {"cpu": "A CPU", "versions": {}},
        "seeded random (seed 0)", "c0ffee", "bench compare --model bert", "2026-11-23T10:00:00+00:00", records,
    )  # fmt: skip
    run.is_complete = True
    for name, value in values.items():
        setattr(run, name, value)
    return run


def small() -> Run:
    return made(
        [
            record(backend, batch, length, ms * batch * length / 16)
            for batch in (1, 4)
            for length in (16, 64)
            for backend, ms in (("eager", 20.0), ("onnx", 10.0))
        ]
    )


def named_long(*precisions: str) -> Run:
    variants = (("onnx", "fused-cuda-graphs"), ("compile", "reduce-overhead"))
    found = [replace(record(name, precision=one), variant=way) for name, way in variants for one in precisions]
    return made([record("eager"), *found])


def odd_runs() -> dict[str, list[Run]]:
    broken = {"verdict": "broken", "reason": "another model", "max_abs_error": 1.0}
    hostile = made([record("eager"), failed("onnx", 1, 16, HOSTILE)])
    hostile.grid = replace(hostile.grid, model=HOSTILE)
    hostile.origin, hostile.command = HOSTILE, HOSTILE
    hostile.fingerprint |= {"cpu": HOSTILE, HOSTILE: [HOSTILE], "versions": {HOSTILE: HOSTILE}}
    other = replace(small().records[0], rounds=[[5 * MS]] * 5)
    elsewhere = made([other], fingerprint={"cpu": "Another CPU", "versions": {}}, started="2026-11-24T10:00:00+00:00")
    return {
        "failed cells": [made([*small().records, failed("compile", 1, 16), failed("compile", 4, 64, status="oom")])],
        "one shape": [made([record("eager"), record("onnx", ms=5.0)])],
        "one backend": [made([record("eager", length=length) for length in (16, 64)])],
        "incomplete": [made(small().records[:3], shapes=small().grid.shapes, is_complete=False)],
        "no record": [made([record("eager")], records=[], is_complete=False)],
        "null alone": [made([record("null", length=length, judged=False, parity={}) for length in (16, 64)])],
        "nothing measured": [made([failed("eager", 1, 16), failed("onnx", 1, 16)])],
        "broken": [made([record("eager"), record("onnx", ms=1.0, parity=broken)])],
        "two precisions": [made([record("eager", precision=name) for name in ("fp32", "bf16")])],
        "one round": [made([record("eager", rounds=[[MS]]), record("onnx", rounds=[[2 * MS]])])],
        "two runs": [small(), made(small().records[:4], started="2026-11-24T10:00:00+00:00")],
        "two machines": [small(), elsewhere],
        "long names": [named_long("fp32", "bf16"), named_long("bf16", "fp16")],
        "hostile": [hostile],
    }


def specs_of(text: str) -> dict[str, Any]:
    """The plots of a page, as its script reads them."""
    return dict(json.loads(gzip.decompress(b64decode(Page(text).apart["specs"])))["charts"])


class Page(HTMLParser):
    """Elements and text of a page; scripts and styles apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.apart: dict[str, str] = {}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.open = (dict(attributes).get("id") or tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open:
            self.apart[self.open] = self.apart.get(self.open, "") + data
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def reference(root: Path) -> Run:
    return read_run(root / "artifacts" / "reference" / REFERENCE)


def test_the_first_screen_answers(reference: Run) -> None:
    shown = answer([reference])
    facts = {fact.title: fact for fact in shown.facts}
    assert shown.headline.startswith("Take onnx: ")
    assert list(facts) == ["Runtime", "By how much", "Same model?", "Machine", "Tainted?"]
    assert facts["Runtime"].value == "onnx"
    assert re.fullmatch(r"1\.\d\d×", facts["By how much"].value)
    assert "AMD EPYC" in facts["Machine"].value
    assert facts["Same model?"].value == "equivalent"
    reference_conditions = [run_record for run_record in reference.records if reference.taint(run_record)]
    assert (facts["Tainted?"].value == "no") == (not reference_conditions)


def test_a_tainted_cell_is_told_on_the_first_screen_and_in_its_row() -> None:
    disturbed = {"other_cpu_share": 0.6, "other_cpu_seconds": 9.0, "wall_seconds": 10.0}
    run = made([record("eager"), record("onnx", ms=5.0, conditions=disturbed)])
    fact = next(fact for fact in answer([run]).facts if fact.title == "Tainted?")
    assert fact.value == "1 of 2 cells"
    assert "other work" in fact.detail
    unwatched = {fact.title: fact.value for fact in answer([small()]).facts}
    assert unwatched["Tainted?"] == "not known"
    assert "!5.0" in render.page([run])


@pytest.mark.parametrize("name", odd_runs())
def test_an_odd_run_makes_a_page_with_a_headline(name: str) -> None:
    text = render.page(odd_runs()[name])
    page, specs = Page(text), specs_of(text)
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {"answer", "cells", "machine", "commands"} <= set(ids)
    places = [attributes["data-chart"] for _, attributes in page.elements if "data-chart" in attributes]
    assert sorted(places) == sorted(specs)
    assert all(spec["data"]["values"] for spec in specs.values())


def test_what_is_not_known_is_said() -> None:
    expected = {
        "failed cells": "2 of 12 cells could not be measured",
        "incomplete": "incomplete, 3 of 8 cells",
        "null alone": "There is nothing to choose",
        "nothing measured": "2 of 2 cells could not be measured",
        "broken": "broken: onnx",
        "two machines": "These runs do not compare",
        "one shape": "No map: it takes two shapes",
    }
    for name, words in expected.items():
        assert words in " ".join(Page(render.page(odd_runs()[name])).texts), name


def test_nothing_of_a_record_becomes_markup() -> None:
    text = render.page(odd_runs()["hostile"])
    page = Page(text)
    assert not any(tag in ("img", "b") for tag, _ in page.elements)
    assert "<img" not in text
    assert sum(HOSTILE in found for found in page.texts) >= 5
    assert not any(
        attribute.startswith("on") for tag, attributes in page.elements if tag != "form" for attribute in attributes
    )


def test_the_page_asks_for_nothing(reference: Run) -> None:
    page = Page(render.page([reference]))
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed"), tag
        assert not ({"src", "srcset", "action"} & set(attributes)), tag
        assert str(attributes.get("href", "#")).startswith("#"), tag
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none';")


@pytest.mark.slow
def test_a_large_run_stays_below_the_limit() -> None:
    records = [
        record(f"backend{number}", batch, length, ms=number + batch * length / 100)
        for batch in (1, 2, 4, 8, 16, 32, 64)
        for length in (8, 16, 32, 64, 128, 256, 512)
        for number in range(8)
    ]
    text = render.page([made(records)])
    assert len(text.encode()) < render.MOST_BYTES
    assert Page(text).texts.count("backend7") >= 49


def test_plots_hold_the_figures_of_the_records() -> None:
    run = small()
    specs = specs_of(render.page([run]))
    points = {
        (point["name"], point["x"]): point["y"] for point in specs["latency-over-length-batch-4"]["data"]["values"]
    }
    assert points[("onnx", 64)] == pytest.approx(160.0, rel=0.01)
    assert points[("eager", 16)] == pytest.approx(80.0, rel=0.01)
    won = {
        (cell["batch"], cell["length"]): (cell["winner"], cell["lead"]) for cell in specs["crossover"]["data"]["values"]
    }
    assert won == dict.fromkeys([(1, 16), (1, 64), (4, 16), (4, 64)], ("onnx", "2.00×"))
    rounds = [point["y"] for point in specs["rounds-1x16"]["data"]["values"] if point["name"] == "eager"]
    assert len(rounds) == 9
    assert max(map(abs, rounds)) < 0.01


@pytest.mark.parametrize(
    ("extra_seconds", "saved_ms", "text"),
    [
        (2.0, 4.0, "500 calls"),
        (0.001, 4.0, "1 call"),
        (-1.0, 4.0, "at once"),
        (1.0, -4.0, "never"),
        (-1.0, -4.0, "ahead for 250 calls"),
        (1.0, 0.0, "never"),
    ],
)
def test_break_even(extra_seconds: float, saved_ms: float, text: str) -> None:
    assert cost_plots.break_even(extra_seconds, saved_ms).text == text


def test_the_worst_position_is_in_the_table() -> None:
    assert "last_hidden_state[0, 3, 7], padded" in render.page([small()])


def test_series_are_told_apart_and_sizes_are_chosen_evenly() -> None:
    runs = [small(), small()]
    assert names(entries(runs)) == ["eager · run 1", "onnx · run 1", "eager · run 2", "onnx · run 2"]
    assert len({(COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]) for i in range(24)}) == 24
    assert evenly(list(range(49)), 4) == [0, 16, 32, 48]


def test_without_the_extra_there_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, cli_here: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(render, "find_spec", lambda name: None if name == "vl_convert" else found(name))
    for option in ("--html", "--png"):
        done = cli_here("report", str(root / "artifacts" / "reference" / REFERENCE), option, "out")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "pip install 'runtimebench[page]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_page_and_plots_and_never_over_them(
    cli_here: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    from bench.runfile import RunFile, record_line

    run, file = made([record("eager"), record("onnx", ms=5.0)]), tmp_path / "run.jsonl"
    lines = RunFile(file)
    lines.create(run)
    for entry in run.records:
        lines.append(record_line(entry))
    done = cli_here("report", "run.jsonl", "--html", "deep/page.html", "--png", "plots")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (tmp_path / "deep" / "page.html").read_text().startswith("<!doctype html>")
    plots = sorted((tmp_path / "plots").iterdir())
    assert len(plots) >= 5
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)
    for option, place in (("--html", "deep/page.html"), ("--png", "plots")):
        again = cli_here("report", "run.jsonl", option, place)
        assert again.returncode == 2
        assert "exists" in again.stderr
    mistakes = [
        (("run.jsonl", "run.jsonl", "--html", "b.html"), "given twice"),
        (("run.jsonl", "run.jsonl"), "several files"),
        (("run.jsonl", "--markdown", "--format", "csv"), "ask for two"),
        (("run.jsonl", "--png", "run.jsonl"), "is no folder"),
        ((str(root / "artifacts/reference/epyc2-20261123-bert-corpus.jsonl"), "--html", "b.html"), "is none"),
    ]
    for arguments, words in mistakes:
        done = cli_here("report", *arguments)
        assert done.returncode == 2, arguments
        assert words in done.stderr
    assert (
        cli_here("report", "run.jsonl", "--markdown").stdout
        == cli_here("report", "run.jsonl", "--format", "markdown").stdout
    )


def test_a_page_that_cannot_be_written_leaves_nothing(
    cli_here: Callable[..., Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = cli_here("report", str(root / "artifacts" / "reference" / REFERENCE), "--html", "page.html")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_plot_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to plot"):
        images.images(odd_runs()["nothing measured"], tmp_path)


def test_the_markdown_always_fits_a_comment() -> None:
    records = [
        replace(failed("eager", batch, length, f"reason {batch} {length} " + "x" * 300), variant="v" * 200)
        for batch in range(1, 21)
        for length in range(1, 21)
    ]
    text = markdown.render(made(records))
    assert len(text) <= markdown.MOST_CHARACTERS
    assert re.search(r"\d+ of 400 cells are left out", text)
    assert "and 390 more" in text
    short = markdown.render(small())
    assert "left out" not in short
    assert markdown.render(odd_runs()["hostile"][0]).count("<img") == 0


# In a real browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    missing = [name for name in page_image.PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not on PATH; apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    opened = page_image.open_browser()
    yield opened
    opened.quit()


def noise(browser: Any) -> list[str]:
    """What the console showed, and what was asked of the network beside the page, since the last call."""
    found = [line["message"] for line in browser.get_log("browser")]
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            found += [] if url.startswith(("file:", "data:")) and url.endswith(".html") else [url]
    return found


def written(folder: Path, runs: list[Run]) -> Path:
    path = folder / "page.html"
    path.write_text(render.page(runs))
    return path


def test_in_a_browser_hover_shows_values_and_the_table_sorts_and_filters(
    browser: Any, reference: Run, tmp_path: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    page_image.show(browser, written(tmp_path, [reference]))
    assert noise(browser) == []
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("Take onnx")
    figures = browser.find_elements(By.CSS_SELECTOR, "[data-chart]")
    assert len(figures) == len(browser.find_elements(By.CSS_SELECTOR, "[data-chart] svg")) > 15

    chart = browser.find_element(By.CSS_SELECTOR, "[data-chart='latency-over-length-batch-1']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    point = chart.find_elements(By.CSS_SELECTOR, ".mark-symbol path")[0]
    ActionChains(browser).move_to_element(point).perform()
    tooltip = browser.find_element(By.ID, "vg-tooltip-element")
    assert "visible" in tooltip.get_attribute("class")
    assert "median ms" in tooltip.text
    shown = re.search(r"median ms\s+([\d.]+)", tooltip.text)
    medians = {entry.median_text for entry in entries([reference]) if entry.record.batch == 1}
    assert shown is not None
    assert shown[1] in medians

    table = browser.find_element(By.CSS_SELECTOR, "#cells table")
    rows = "return [...arguments[0].tBodies[0].rows].filter((r) => !r.hidden).map((r) => [...r.cells].map((c) => c.innerText))"
    column = [head.text for head in table.find_elements(By.TAG_NAME, "th")].index("median ms")
    button = table.find_elements(By.TAG_NAME, "button")[column]
    for direction in ("ascending", "descending"):
        button.click()
        values = [float(row[column].lstrip("!")) for row in browser.execute_script(rows, table)]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(values) == 18
        assert table.find_elements(By.TAG_NAME, "th")[column].get_attribute("aria-sort") == direction
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("onnx 128")
    kept = browser.execute_script(rows, table)
    assert [(row[0], row[1], row[2]) for row in kept] == [("8", "128", "onnx"), ("1", "128", "onnx")]
    assert browser.find_element(By.CSS_SELECTOR, ".filter output").text == "2 of 18 cells"
    assert noise(browser) == []


LAYOUT = """
const width = arguments[0];  // a phone's innerWidth grows with what is too wide
const overlaps = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
const boxes = (selector, root) => [...(root || document).querySelectorAll(selector)]
  .map((one) => [one, one.getBoundingClientRect()]).filter(([, box]) => box.width > 0 && box.height > 0);
const clashes = [];
const check = (found, name) => found.forEach(([one, a], i) => found.slice(i + 1).forEach(([other, b]) => {
  if (overlaps(a, b)) clashes.push(`${name}: ${one.textContent.slice(0, 40)} | ${other.textContent.slice(0, 40)}`);
}));
check(boxes("body > *"), "body"); check(boxes("section"), "sections"); check(boxes("dl > div"), "facts");
check(boxes("nav li"), "links"); check(boxes("figure"), "figures");
document.querySelectorAll("section").forEach((part) => check(boxes(":scope > *", part), part.id));
document.querySelectorAll("figure").forEach((figure) => {
  const outer = figure.getBoundingClientRect();
  boxes("svg", figure).forEach(([, box]) => { if (box.right > outer.right + 1 || box.bottom > outer.bottom + 1)
    clashes.push(`${figure.dataset.chart}: the plot leaves its box`); });
  figure.querySelectorAll(".role-axis-label, .role-mark.mark-text").forEach((axis) => {
    const seen = boxes("text", axis).filter(([one]) => getComputedStyle(one).opacity > 0 && one.getAttribute("opacity") !== "0");
    check(seen, figure.dataset.chart);
  });
});
document.querySelectorAll("h1, h2, p, dd, dt, li, summary, label").forEach((one) => {
  const box = one.getBoundingClientRect();
  if (box.right > width + 1) clashes.push(`beyond the edge: ${one.textContent.slice(0, 60)}`);
});
return {clashes, scrolls: document.documentElement.scrollWidth > width,
        paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
        label: getComputedStyle(document.querySelector(".role-axis-label text") || document.body).fill};
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_overlaps(browser: Any, root: Path, tmp_path: Path, width: int, scheme: str) -> None:
    files = (REFERENCE, "epyc2-20261123-study-budget.jsonl")
    for file in files:
        page_image.show(browser, written(tmp_path, [read_run(root / "artifacts/reference" / file)]), width, 844, scheme)
        browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found = browser.execute_script(LAYOUT, width)
        assert found["clashes"] == [], file
        assert not found["scrolls"], file
        paper, ink, label = (sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("paper", "ink", "label"))
        assert (paper < 150 and min(ink, label) > 550) if scheme == "dark" else (paper > 700 and max(ink, label) < 200)
        assert noise(browser) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", odd_runs())
def test_in_a_browser_odd_runs_are_quiet_and_fit_a_phone(browser: Any, tmp_path: Path, name: str) -> None:
    page_image.show(browser, written(tmp_path, odd_runs()[name]), 390, 844)
    found = browser.execute_script(LAYOUT, 390)
    assert found["clashes"] == []
    assert not found["scrolls"]
    assert browser.title != "owned"
    assert noise(browser) == []


@pytest.mark.slow
def test_on_paper_every_table_is_open(browser: Any, reference: Run, tmp_path: Path) -> None:
    page_image.show(browser, written(tmp_path, [reference]))
    closed = "return document.querySelectorAll('details:not([open])').length"
    assert browser.execute_script(closed) > 5
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    assert len(printed["data"]) > 50_000
    assert browser.execute_script(closed) == 0
    assert noise(browser) == []


def test_contestants_of_a_run_without_records_have_no_plots() -> None:
    run = odd_runs()["no record"][0]
    assert run.grid.contestants == (Candidate("eager", "default", "fp32"),)
    assert run.grid.shapes == (Shape(1, 16),)
    assert render.plots([run], entries([run])) == []


@pytest.mark.slow
def test_the_check_of_the_layout_sees_what_overlaps(browser: Any, tmp_path: Path) -> None:
    page_image.show(browser, written(tmp_path, [small()]), 390, 844)
    for plant, words in (
        ("document.querySelector('#latency .charts').style.marginTop = '-60px'", "latency: "),
        ("document.querySelector('#map h2').style.width = '900px'", "beyond the edge"),
    ):
        assert browser.execute_script(LAYOUT, 390)["clashes"] == []
        browser.execute_script(plant)
        found = browser.execute_script(LAYOUT, 390)
        assert any(words in clash for clash in found["clashes"]), plant
        assert found["scrolls"] == ("900px" in plant)
        browser.refresh()
        page_image.show(browser, tmp_path / "page.html", 390, 844)


def test_a_run_that_doubled_its_batches_names_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.report import batches

    monkeypatch.setattr(batches, "heading", lambda run: ["Best batch of each length", "the smallest"])
    monkeypatch.setattr(batches, "table", lambda run: [("16", "onnx", "8", "4,213", "1.9", "32")])
    monkeypatch.setattr(batches, "lines", lambda run: ["length 16: onnx at batch 8"])
    texts = Page(render.page([small()])).texts
    assert {"Best batch of each length", "4,213", "length 16: onnx at batch 8"} <= set(texts)
