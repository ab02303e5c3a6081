"""The page: what it says of odd runs, that nothing of a record becomes markup, and how it behaves in a real browser."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import shutil
from base64 import b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.columns import Mark, Plot, Section, Table
from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.report.page import images, render
from bench.report.page.answer import Fact, answer
from bench.report.page.charts import COLOURS, SYMBOLS
from bench.report.page.entries import entries, evenly, names
from bench.run.file import read_run
from bench.run.record import Once, Record, Run
from bench.run.sections import paid_back
from bench.spec import Shape
from benchmarks import page_image
from tests.made import MS, Steps, of_steps, run_of, write
from tests.made import record as made_record

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;{{ 7*7 }}"


PEAKS = Peaks("cpu", 2, {"fp32": 1e12}, ((2**30, 1e11),)).to_json()


def record(label: str, batch: int = 1, length: int = 16, ms: Any = 10.0, **values: Any) -> Record:
    """A record with all that the page draws."""
    fields: dict[str, Any] = {
        "parity": {
            "verdict": "equivalent", "max_abs_error": 2e-6, "max_abs_at": [0, 3, 7], "output": "last_hidden_state",
            "case": "padded", "rmse": 1e-7, "rmse_eager": 2e-7, "min_cosine": 0.999999,
        },
        "once": Once(3.0, 0.5, round(3 * (ms[0][0] if isinstance(ms, list) else ms) * MS), is_stable=True),
        "memory": {"loaded": {"process_bytes": 2**28, "parameters_bytes": 2**27}, "peak": {"peak_process_bytes": 2**29}},
        "operations": {"flops": 10**9, "weight_bytes": 10**8},
    }  # fmt: skip
    rounds = ms if isinstance(ms, list) else [[ms * (1 + 0.002 * (index % 3))] for index in range(9)]
    return made_record(label, Shape(batch, length), **({"ms": rounds} | fields | values))


def failed(label: str, batch: int, length: int, reason: str = "killed by SIGKILL", status: str = "failed") -> Record:
    return record(label, batch, length, status=status, reason=reason, parity={}, memory={}, once=Once(), operations={})


def small(**values: Any) -> Run:
    return run_of(
        [
            record(label, batch, length, ms * batch * length / 16)
            for batch in (1, 4)
            for length in (16, 64)
            for label, ms in (("eager", 20.0), ("onnx", 10.0))
        ],
        **{"notes": {"peaks": PEAKS}} | values,
    )


def hostile() -> Run:
    run = run_of([record("eager"), failed("onnx", 1, 16, HOSTILE)], notes={HOSTILE: HOSTILE})
    run.model = replace(run.model, name=HOSTILE, origin=HOSTILE)
    run.fingerprint |= {"cpu": HOSTILE, HOSTILE: [HOSTILE], "versions": {HOSTILE: HOSTILE}}
    run.workload.options = replace(run.workload.options, model=HOSTILE)
    return run


def named_long(*precisions: str) -> Run:
    labels = ("onnx:fused-cuda-graphs", "compile:reduce-overhead")
    return run_of([record("eager"), *(record(label, precision=one) for label in labels for one in precisions)])


class Drawn(Steps):
    """A workload whose section has plots, over names and over numbers."""

    def sections(self, run: Run) -> Iterable[Section]:
        words = [Mark("onnx", one, 2.0 + at, 1.5, 4.5) for at, one in enumerate(("few", "many"))]
        numbers = [Mark("limit", float(rate), rate / 10) for rate in (1, 10, 100)]
        plots = [
            Plot("by name", "load", "score", tuple(words)),
            Plot("by rate", "rate", "ms", tuple(numbers), True, True),
        ]
        yield Section("Drawn", ("How to read it.",), Table(("who", "score"), (("onnx", "2"),)), plots=plots)
        yield Section("Of a point", ("A line of it.",), point=run.records[0].point)


def drawn() -> Run:
    return run_of(of_steps().records, Drawn)


def odd_runs() -> dict[str, list[Run]]:
    whole = small()
    stopped = small(is_complete=False)
    stopped.records = stopped.records[:3]
    empty = run_of([record("eager")], is_complete=False)
    empty.records = []
    elsewhere = run_of([record("eager", ms=5.0)], fingerprint={"cpu": "Another CPU"})
    altered = small()
    altered.integrity = "altered"
    return {
        "failed cells": [run_of([*whole.records, failed("compile", 1, 16), failed("compile", 4, 64, status="oom")])],
        "one shape": [run_of([record("eager"), record("onnx", ms=5.0)])],
        "one backend": [run_of([record("eager", length=length) for length in (16, 64)])],
        "incomplete": [stopped],
        "no record": [empty],
        "null alone": [run_of([record("null", length=length, parity={}) for length in (16, 64)])],
        "nothing measured": [run_of([failed("eager", 1, 16), failed("onnx", 1, 16)])],
        "broken": [run_of([record("eager"), record("onnx", ms=1.0, parity={"verdict": "broken", "max_abs_error": 1.0})])],
        "two precisions": [run_of([record("eager", precision=name) for name in ("fp32", "bf16")])],
        "one round": [run_of([record("eager", ms=[[1.0]]), record("onnx", ms=[[2.0]])])],
        "two runs": [small(), replace(small(), started="2026-01-02T00:00:00+00:00")],
        "two machines": [small(), elsewhere],
        "long names": [named_long("fp32", "bf16"), named_long("bf16", "fp16")],
        "altered": [altered],
        "no times": [of_steps()],
        "two without times": [of_steps(), of_steps()],
        "plots of its own": [drawn()],
        "hostile": [hostile()],
    }  # fmt: skip


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


def texts_of(text: str) -> str:
    """All that a page shows, without line breaks."""
    return " ".join(" ".join(Page(text).texts).split())


def facts_of(runs: list[Run]) -> dict[str, Fact]:
    return {fact.title: fact for fact in answer(runs, entries(runs)).facts}


def test_the_first_screen_answers() -> None:
    run = small()
    facts = facts_of([run])
    assert answer([run], entries([run])).headline == "Take onnx: 2.00× as fast as eager, the next"
    assert list(facts) == ["Measured", "By how much", "Same model?", "Machine", "Disturbed?"]
    assert facts["Measured"].value == "8 of 8 cells"
    assert facts["By how much"].value == "2.00×"
    assert facts["Same model?"].value == "equivalent"
    assert facts["Machine"].value == "fp32, cpu (A CPU), 2 threads"
    assert facts["Machine"].detail == "2026-01-01"
    assert facts["Disturbed?"].value == "not known"


@pytest.mark.parametrize(
    ("name", "headline"),
    [
        ("one shape", "Take onnx: 2.00× as fast as eager, the next"),
        ("one backend", "Take eager: no other runtime qualifies"),
        ("null alone", "There is nothing to choose"),
        ("altered", "There is nothing to choose"),
        ("two machines", "These runs do not compare: one choice a run"),
        ("no times", "4 of 4 cells measured"),
    ],
)
def test_headlines(name: str, headline: str) -> None:
    assert f"<h1>{headline}</h1>" in render.page(odd_runs()[name])


def test_a_tie_is_no_victory() -> None:
    run = run_of([record("eager", ms=[[9], [11], [9]]), record("onnx", ms=[[11], [9], [10]])])
    assert answer([run], entries([run])).headline.startswith("Take eager: fastest, in a tie with onnx")
    assert facts_of([run])["By how much"].value == "a tie"


def test_a_disturbed_cell_is_named_on_the_first_screen_and_in_its_row() -> None:
    run = run_of([record("eager", conditions={}), record("onnx", ms=5.0, conditions={"other_cpu_seconds": 1.5})])
    fact = facts_of([run])["Disturbed?"]
    assert fact.value == "1 of 2 cells"
    assert "other work" in fact.detail
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("failed cells", "2 of 10 cells could not be measured"),
        ("failed cells", "compile at 4×64: oom: killed by SIGKILL"),
        ("incomplete", "Incomplete: 3 of 8 cells; measure again with: bench compare"),
        ("nothing measured", "2 of 2 cells could not be measured"),
        ("broken", "broken: onnx"),
        ("two machines", "not the same in run 1 and run 2: machine (cpu: A CPU and Another CPU)"),
        ("two machines", "run 2: Take eager: no other runtime qualifies"),
        ("altered", "ALTERED: the lines of this file do not match its seal"),
        ("no times", "eager with a very long explanation that goes on"),
        ("plots of its own", "How to read it."),
        ("plots of its own", "step 1: A line of it."),
    ],
)
def test_what_is_not_known_is_said(name: str, words: str) -> None:
    assert words in texts_of(render.page(odd_runs()[name]))


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    run = read_run(write(small(), tmp_path / "run.jsonl", is_sealed=False))
    assert "CUT: this file has no seal" in texts_of(render.page([run]))


def test_an_altered_file_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "run.jsonl")
    path.write_text(path.read_text().replace('"max_abs_error":2e-6', '"max_abs_error":"much"', 1))
    with pytest.raises(UserError, match="was altered after it was written, and what it holds makes no report"):
        render.page([read_run(path)])


def test_runs_of_several_workloads_make_no_page() -> None:
    with pytest.raises(UserError, match="these runs are of forward and steps; give runs of one workload"):
        render.page([small(), of_steps()])


def test_nothing_of_a_record_becomes_markup() -> None:
    text = render.page(odd_runs()["hostile"])
    page = Page(text)
    assert not any(tag in ("img", "b") for tag, _ in page.elements)
    assert "<img" not in text
    assert sum(HOSTILE in found for found in page.texts) >= 5
    assert not any(
        attribute.startswith("on") for tag, attributes in page.elements if tag != "form" for attribute in attributes
    )


def test_the_page_asks_for_nothing() -> None:
    page = Page(render.page([small()]))
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed"), tag
        assert not ({"src", "srcset", "action"} & set(attributes)), tag
        assert str(attributes.get("href", "#")).startswith("#"), tag
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none';")


def test_a_large_run_stays_below_the_limit() -> None:
    records = [
        record(f"onnx:backend{number}", batch, length, ms=[[number + 1 + batch * length / 100]] * 3)
        for batch in (1, 2, 4, 8, 16, 32, 64)
        for length in (8, 16, 32, 64, 128, 256, 512)
        for number in range(8)
    ]
    text = render.page([run_of(records)])
    assert len(text.encode()) < render.MOST_BYTES
    assert Page(text).texts.count("onnx:backend7") >= 49


# Plots and tables.


def test_plots_hold_the_figures_of_the_records() -> None:
    specs = specs_of(render.page([small()]))
    points = {
        (point["name"], point["x"]): point["y"] for point in specs["median-ms-over-length-batch-4"]["data"]["values"]
    }
    assert points[("onnx", 64)] == pytest.approx(160.0, rel=0.01)
    assert points[("eager", 16)] == pytest.approx(80.0, rel=0.01)
    won = {(cell["batch"], cell["length"]): (cell["winner"], cell["lead"]) for cell in specs["map"]["data"]["values"]}
    assert won == dict.fromkeys([(1, 16), (1, 64), (4, 16), (4, 64)], ("onnx", "2.00×"))
    rounds = [point["y"] for point in specs["rounds-0"]["data"]["values"] if point["name"] == "eager"]
    assert len(rounds) == 9
    assert max(map(abs, rounds)) < 0.01
    tokens = {point["name"]: point["y"] for point in specs["throughput"]["data"]["values"] if point["at"] == "1×16"}
    assert tokens == pytest.approx({"eager": 800.0, "onnx": 1600.0}, rel=0.01)


def test_intervals_are_drawn() -> None:
    (_, low, high), *_ = [
        (point["y"], point["low"], point["high"])
        for point in specs_of(render.page([small()]))["median-ms-over-length-batch-1"]["data"]["values"]
    ]
    assert low <= 20.04 <= high


def test_a_workload_without_shapes_has_its_headline_over_its_points() -> None:
    specs = specs_of(render.page([of_steps()]))
    assert list(specs) == ["score"]
    values = {(point["at"], point["name"]): point["y"] for point in specs["score"]["data"]["values"]}
    assert values == {("step 1", "eager"): 1234.5, ("step 1", "onnx"): 3.0, ("step 2", "onnx"): 0.25}


@dataclass(frozen=True)
class Packing:
    batch: int
    order: str


class Packings(Steps):
    """Points of a size and a name."""

    point_type = Packing

    def points(self) -> list[Any]:
        return [Packing(batch, order) for order in ("sorted", "unsorted") for batch in (1, 4)]


def test_figures_lie_over_whatever_size_the_points_have() -> None:
    records = [
        made_record("eager", point, ms=[], verdict="", figures={"score": float(point.batch)})
        for point in Packings(None).points()
    ]
    specs = specs_of(render.page([run_of(records, Packings)]))
    assert list(specs) == ["score-over-batch-order-sorted", "score-over-batch-order-unsorted"]
    assert [(one["x"], one["y"]) for one in specs["score-over-batch-order-sorted"]["data"]["values"]] == [
        (1, 1),
        (4, 4),
    ]


def test_figures_within_a_decade_have_labels_on_a_logarithmic_axis() -> None:
    records = [
        record(name, parity={"verdict": "exact", "max_abs_error": error})
        for name, error in (("eager", 8e-7), ("onnx", 9e-7))
    ]
    (layer,) = specs_of(render.page([run_of(records)]))["parity"]["layer"]
    assert layer["encoding"]["y"]["axis"]["labelExpr"] == "format(datum.value, '.1e')"


def test_memory_without_a_peak_is_drawn_without_one() -> None:
    run = run_of([record("eager", memory={"loaded": {"process_bytes": 2**28}})])
    (bars,) = specs_of(render.page([run]))["memory"]["layer"]
    assert bars["mark"]["type"] == "bar"


def test_the_plotted_columns_are_the_workloads_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "plotted", ("score", "joined"))
    run = of_steps()
    run.records[0] = replace(run.records[0], figures={"score": 1.0, "joined": 2.5})
    assert list(specs_of(render.page([run]))) == ["score", "joined"]


def test_plots_of_a_section_are_drawn() -> None:
    specs = specs_of(render.page([drawn()]))
    assert {"section-drawn-0", "section-drawn-1"} < set(specs)
    assert [point["low"] for point in specs["section-drawn-0"]["data"]["values"]] == [1.5, 1.5]
    assert [point["x"] for point in specs["section-drawn-1"]["data"]["values"]] == [1.0, 10.0, 100.0]


def test_the_table_of_all_cells_has_every_column_with_a_figure_and_what_it_means() -> None:
    page = Page(render.page([small()]))
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert {"median ms", "ms/sample", "tokens/s", "load s", "parity"} <= set(page.texts)
    assert any("median over the batch size" in str(head.get("title")) for head in heads)
    assert "p99 ms" not in page.texts


def test_the_memory_section_is_drawn_and_not_told_twice() -> None:
    ids = [attributes.get("id") for _, attributes in Page(render.page([small()])).elements]
    assert "memory" in ids
    assert not any("memory" in str(one) for one in ids if one != "memory")


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
    assert paid_back(extra_seconds, saved_ms, ("call", "calls"))[0] == text


def test_the_worst_position_is_in_the_table() -> None:
    assert "last_hidden_state[0, 3, 7], padded" in render.page([small()])


def test_two_runs_stand_beside_each_other() -> None:
    faster = small()
    faster.records = [
        record(one.candidate.label, one.point.batch, one.point.length, 5.0 * one.point.batch * one.point.length / 16)
        for one in faster.records
    ]
    text = texts_of(render.page([small(), faster]))
    assert "run 1: in memory, started 2026-01-01" in text
    assert re.search(r"1×16 eager 20\.0\d 5\.0\d+ 0\.25", text)
    assert "eager · run 1" in text


def test_series_are_told_apart_and_sizes_are_chosen_evenly() -> None:
    runs = [small(), small()]
    assert names(entries(runs)) == ["eager · run 1", "onnx · run 1", "eager · run 2", "onnx · run 2"]
    assert len({(COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]) for i in range(24)}) == 24
    assert evenly(list(range(49)), 4) == [0, 16, 32, 48]


def test_without_the_extra_there_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(render, "find_spec", lambda name: None if name == "vl_convert" else found(name))
    with pytest.raises(
        UserError, match=r"--output needs vl_convert, which is not installed; pip install 'runtimebench"
    ):
        render.page([small()])


def test_plots_are_images_too(tmp_path: Path) -> None:
    found = images.images([run_of([record("eager"), record("onnx", ms=5.0)])], tmp_path)
    assert len(found) >= 5
    assert all(path.parent == tmp_path and content.startswith(b"\x89PNG") for path, content in found.items())
    with pytest.raises(UserError, match="nothing to plot"):
        images.images(odd_runs()["nothing measured"], tmp_path)


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


def test_in_a_browser_hover_shows_values_and_the_table_sorts_and_filters(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    page_image.show(browser, written(tmp_path, [small()]))
    assert noise(browser) == []
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("Take onnx: ")
    figures = browser.find_elements(By.CSS_SELECTOR, "[data-chart]")
    assert len(figures) == len(browser.find_elements(By.CSS_SELECTOR, "[data-chart] svg")) > 10

    chart = browser.find_element(By.CSS_SELECTOR, "[data-chart='median-ms-over-length-batch-1']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    point = chart.find_elements(By.CSS_SELECTOR, ".mark-symbol path")[0]
    ActionChains(browser).move_to_element(point).perform()
    tooltip = browser.find_element(By.ID, "vg-tooltip-element")
    assert "visible" in tooltip.get_attribute("class")
    shown = re.search(r"median ms\s+([\d.]+)", tooltip.text)
    assert shown is not None
    assert shown[1] in {entry.median_text for entry in entries([small()])}

    table = browser.find_element(By.CSS_SELECTOR, "#cells table")
    rows = "return [...arguments[0].tBodies[0].rows].filter((r) => !r.hidden).map((r) => [...r.cells].map((c) => c.innerText))"
    column = [head.text for head in table.find_elements(By.TAG_NAME, "th")].index("median ms")
    button = table.find_elements(By.TAG_NAME, "button")[column]
    for direction in ("ascending", "descending"):
        button.click()
        values = [float(row[column].lstrip("!")) for row in browser.execute_script(rows, table)]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(values) == 8
        assert table.find_elements(By.TAG_NAME, "th")[column].get_attribute("aria-sort") == direction
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("onnx ×64")
    kept = browser.execute_script(rows, table)
    assert [(row[0], row[1]) for row in kept] == [("4×64", "onnx"), ("1×64", "onnx")]
    assert browser.find_element(By.CSS_SELECTOR, ".filter output").text == "2 of 8 cells"
    assert noise(browser) == []


def test_in_a_browser_a_workload_without_times_is_drawn(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    page_image.show(browser, written(tmp_path, [drawn()]), 390, 844)
    assert len(browser.find_elements(By.CSS_SELECTOR, "[data-chart] svg")) == 3
    found = browser.execute_script(LAYOUT, 390)
    assert (found["clashes"], found["scrolls"], noise(browser)) == ([], False, [])


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_overlaps(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    page_image.show(browser, written(tmp_path, [small()]), width, 844, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = browser.execute_script(LAYOUT, width)
    assert found["clashes"] == []
    assert not found["scrolls"]
    paper, ink, label = (sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("paper", "ink", "label"))
    assert (paper < 150 and min(ink, label) > 550) if scheme == "dark" else (paper > 700 and max(ink, label) < 200)
    assert noise(browser) == []


@pytest.mark.parametrize(
    "name", ["failed cells", "no record", "two runs", "long names", "two without times", "hostile"]
)
def test_in_a_browser_odd_runs_are_quiet_and_fit_a_phone(browser: Any, tmp_path: Path, name: str) -> None:
    page_image.show(browser, written(tmp_path, odd_runs()[name]), 390, 844)
    found = browser.execute_script(LAYOUT, 390)
    assert found["clashes"] == []
    assert not found["scrolls"]
    assert browser.title != "owned"
    assert noise(browser) == []


def test_on_paper_every_table_is_open(browser: Any, tmp_path: Path) -> None:
    page_image.show(browser, written(tmp_path, [small()]))
    closed = "return document.querySelectorAll('details:not([open])').length"
    assert browser.execute_script(closed) > 5
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    assert len(printed["data"]) > 50_000
    assert browser.execute_script(closed) == 0
    assert noise(browser) == []


def test_the_check_of_the_layout_sees_what_overlaps(browser: Any, tmp_path: Path) -> None:
    page_image.show(browser, written(tmp_path, [small()]), 390, 844)
    for plant, words in (
        ("document.querySelector('#throughput .charts').style.marginTop = '-60px'", "throughput: "),
        ("document.querySelector('#fastest h2').style.width = '900px'", "beyond the edge"),
    ):
        assert browser.execute_script(LAYOUT, 390)["clashes"] == []
        browser.execute_script(plant)
        found = browser.execute_script(LAYOUT, 390)
        assert any(words in clash for clash in found["clashes"]), plant
        assert found["scrolls"] == ("900px" in plant)
        browser.refresh()
        page_image.show(browser, tmp_path / "page.html", 390, 844)
