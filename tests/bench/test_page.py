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
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.columns import Mark, Plot, Section, Table
from bench.errors import UserError
from bench.machine.roofline import Peaks
from bench.report.page import render
from bench.report.page.charts import COLOURS, SYMBOLS
from bench.report.page.entries import evenly
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


def small(onnx_ms: float = 10.0, **values: Any) -> Run:
    return run_of(
        [
            record(label, batch, length, ms * batch * length / 16)
            for batch in (1, 4)
            for length in (16, 64)
            for label, ms in (("eager", 20.0), ("onnx", onnx_ms))
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

    plotted = ("score", "joined")

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
    run = run_of(of_steps().records, Drawn)
    run.records[0] = replace(run.records[0], figures={"score": 1234.5, "joined": 2.5})
    return run


@dataclass(frozen=True)
class Packing:
    batch: int
    order: str


class Packings(Steps):
    """Points of a size and a name."""

    point_type = Packing

    def points(self) -> list[Any]:
        return [Packing(batch, order) for order in ("sorted", "unsorted") for batch in (1, 4)]


def packings() -> Run:
    points = Packings(None).points()
    scores = [made_record("eager", one, ms=[], verdict="", figures={"score": float(one.batch)}) for one in points]
    return run_of(scores, Packings)


def changed(run: Run, **values: Any) -> Run:
    for name, value in values.items():
        setattr(run, name, value)
    return run


def parities(*errors: float) -> Run:
    found = [{"verdict": "exact", "max_abs_error": error} for error in errors]
    return run_of([record(name, parity=one) for name, one in zip(("eager", "onnx"), found, strict=True)])


BUSY = {"other_cpu_seconds": 1.5}
ELSEWHERE = {"cpu": "Another CPU"}
#: Runs by name, and what their page says.
CASES: dict[str, tuple[list[Run], tuple[str, ...]]] = {
    "small": (
        [small()],
        (
            "Take onnx: 2.00× as fast as eager, the next", "Measured 8 of 8 cells", "By how much 2.00×",
            "Same model? equivalent", "Machine fp32, cpu (A CPU), 2 threads 2026-01-01", "Disturbed? not known",
            "last_hidden_state[0, 3, 7], padded",
        ),
    ),
    "failed cells": (
        [run_of([*small().records, failed("compile", 1, 16), failed("compile", 4, 64, status="oom")])],
        ("2 of 10 cells could not be measured", "compile at 4×64: oom: killed by SIGKILL"),
    ),
    "one shape": ([run_of([record("eager"), record("onnx", ms=5.0)])], ("Take onnx: 2.00× as fast as eager, the next",)),
    "one backend": (
        [run_of([record("eager", length=length) for length in (16, 64)])], ("Take eager: no other runtime qualifies",),
    ),
    "incomplete": (
        [changed(small(is_complete=False), records=small().records[:3])],
        ("Incomplete: 3 of 8 cells; measure again with: bench compare",),
    ),
    "no record": ([changed(run_of([record("eager")], is_complete=False), records=[])], ("Take none: no runtime keeps what is asked",)),
    "null alone": (
        [run_of([record("null", length=length, parity={}) for length in (16, 64)])], ("There is nothing to choose",),
    ),
    "nothing measured": (
        [run_of([failed("eager", 1, 16), failed("onnx", 1, 16)])], ("2 of 2 cells could not be measured",),
    ),
    "broken": (
        [run_of([record("eager"), record("onnx", ms=1.0, parity={"verdict": "broken", "max_abs_error": 1.0})])],
        ("broken: onnx",),
    ),
    "undecided": (
        [run_of([record("eager", ms=[[9], [11], [9]]), record("onnx", ms=[[11], [9], [10]])])],
        ("Undecided: eager leads; 0.51–2.11× as fast as onnx, the next (", "By how much undecided"),
    ),
    "disturbed": (
        [run_of([record("eager", conditions={}), record("onnx", ms=5.0, conditions=BUSY)])],
        ("Disturbed? 1 of 2 cells", "other work", "!5.0"),
    ),
    "two precisions": ([run_of([record("eager", precision=name) for name in ("fp32", "bf16")])], ()),
    "one round": ([run_of([record("eager", ms=[[1.0]]), record("onnx", ms=[[2.0]])])], ()),
    "two runs": (
        [small(), changed(small(5.0), started="2026-01-02T00:00:00+00:00")],
        ("run 1: in memory, started 2026-01-01", "eager · run 1 onnx · run 1 eager · run 2 onnx · run 2"),
    ),
    "two machines": (
        [small(), run_of([record("eager", ms=5.0)], fingerprint=ELSEWHERE)],
        (
            "These runs do not compare: one choice a run", "run 2: Take eager: no other runtime qualifies",
            "not the same in run 1 and run 2: machine (cpu: A CPU and Another CPU)",
        ),
    ),
    "long names": ([named_long("fp32", "bf16"), named_long("bf16", "fp16")], ()),
    "altered": (
        [changed(small(), integrity="altered")],
        ("There is nothing to choose", "ALTERED: the lines of this file do not match its seal"),
    ),
    "no times": (
        [of_steps()], ("4 of 4 cells measured", "eager with a very long explanation that goes on"),
    ),
    "two without times": ([of_steps(), of_steps()], ()),
    "plots of its own": ([drawn()], ("How to read it.", "step 1: A line of it.")),
    "packings": ([packings()], ()),
    "narrow parity": ([parities(8e-7, 9e-7)], ()),
    "no peak": ([run_of([record("eager", memory={"loaded": {"process_bytes": 2**28}})])], ()),
    "hostile": ([hostile()], ()),
}  # fmt: skip


class Page(HTMLParser):
    """Elements and text of a page; scripts and styles apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.apart: dict[str, str] = {}
        self.open = ""
        self.feed(text)
        self.shown = " ".join(" ".join(self.texts).split())
        self.plots: dict[str, Any] = json.loads(gzip.decompress(b64decode(self.apart["specs"])))["charts"]

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

    def values(self, plot: str) -> list[dict[str, Any]]:
        """The points of one plot."""
        return list(self.plots[plot]["data"]["values"])


@cache
def page_of(name: str) -> Page:
    return Page(render.page(CASES[name][0]))


@pytest.mark.parametrize("name", CASES)
def test_every_run_makes_a_whole_page_that_says_what_is_known_and_what_is_not(name: str) -> None:
    page = page_of(name)
    for words in CASES[name][1]:
        assert words in page.shown, words
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {"answer", "cells", "machine", "commands"} <= set(ids)
    assert not any("memory" in str(one) for one in ids if one != "memory")  # drawn, and not told twice
    places = [attributes["data-chart"] for _, attributes in page.elements if "data-chart" in attributes]
    assert sorted(map(str, places)) == sorted(page.plots)
    assert all(spec["data"]["values"] for spec in page.plots.values())
    for tag, attributes in page.elements:  # it asks for nothing
        assert tag not in ("link", "iframe", "object", "embed"), tag
        assert not ({"src", "srcset", "action"} & set(attributes)), tag
        assert str(attributes.get("href", "#")).startswith("#"), tag
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none';")


def test_a_file_that_is_not_as_it_was_written_is_named_or_refused_in_one_line(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "run.jsonl", is_sealed=False)
    assert "CUT: this file has no seal" in Page(render.page([read_run(path)])).shown
    path = write(small(), tmp_path / "other.jsonl")
    path.write_text(path.read_text().replace('"max_abs_error":2e-6', '"max_abs_error":"much"', 1))
    with pytest.raises(UserError, match=r"is damaged \(ValueError: max_abs_error: Expected"):
        render.page([read_run(path)])


def test_what_makes_no_page_or_image_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="these runs are of forward and steps; give runs of one workload"):
        render.page([small(), of_steps()])
    with pytest.raises(UserError, match="nothing to plot"):
        render.images(CASES["nothing measured"][0])
    found = importlib.util.find_spec
    monkeypatch.setattr(render, "find_spec", lambda name: None if name == "vl_convert" else found(name))
    remedy = r"--output needs vl_convert, which is not installed; pip install 'runtimebench"
    for make in (render.page, render.images):
        with pytest.raises(UserError, match=remedy):
            make([small()])


def test_nothing_of_a_record_becomes_markup() -> None:
    page = page_of("hostile")
    assert not any(tag in ("img", "b") for tag, _ in page.elements)
    assert "<img" not in page.source
    assert sum(HOSTILE in found for found in page.texts) >= 5
    attributes = [name for tag, found in page.elements if tag != "form" for name in found]
    assert not any(name.startswith("on") for name in attributes)


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
    page = page_of("small")
    points = {(one["name"], one["x"]): one for one in page.values("median-ms-over-length-batch-4")}
    assert points[("onnx", 64)]["y"] == pytest.approx(160.0, rel=0.01)
    assert points[("eager", 16)]["y"] == pytest.approx(80.0, rel=0.01)
    assert all(one["low"] <= one["y"] <= one["high"] for one in points.values())
    won = {(cell["batch"], cell["length"]): (cell["winner"], cell["lead"]) for cell in page.values("map")}
    assert won == dict.fromkeys([(1, 16), (1, 64), (4, 16), (4, 64)], ("onnx", "2.00×"))
    run = small()
    run.records[0] = replace(run.records[0], turns=run.records[0].turns[:2])  # too few for a verdict at 1×16
    open_ = Page(render.page([run]))
    leads = {(cell["batch"], cell["length"]): (cell["lead"], cell["strength"] > 0) for cell in open_.values("map")}
    assert leads == dict.fromkeys([(1, 64), (4, 16), (4, 64)], ("2.00×", True)) | {(1, 16): ("?", False)}
    assert open_.plots["map"]["layer"][0]["transform"] == [{"filter": "datum.strength > 0"}]
    rounds = [point["y"] for point in page.values("rounds-0") if point["name"] == "eager"]
    assert len(rounds) == 9
    assert max(map(abs, rounds)) < 0.01
    tokens = {point["name"]: point["y"] for point in page.values("throughput") if point["at"] == "1×16"}
    assert tokens == pytest.approx({"eager": 800.0, "onnx": 1600.0}, rel=0.01)
    # A layer of each kind that is known; figures within a decade have labels on a logarithmic axis too.
    assert [layer["mark"]["type"] for layer in page_of("no peak").plots["memory"]["layer"]] == ["bar"]
    (layer,) = page_of("narrow parity").plots["parity"]["layer"]
    assert layer["encoding"]["y"]["axis"]["labelExpr"] == "format(datum.value, '.1e')"


def test_figures_lie_over_the_sizes_of_the_points_or_their_names() -> None:
    page = page_of("no times")
    assert list(page.plots) == ["score"]
    values = {(point["at"], point["name"]): point["y"] for point in page.values("score")}
    assert values == {("step 1", "eager"): 1234.5, ("step 1", "onnx"): 3.0, ("step 2", "onnx"): 0.25}
    page = page_of("packings")
    assert list(page.plots) == ["score-over-batch-order-sorted", "score-over-batch-order-unsorted"]
    assert [(one["x"], one["y"]) for one in page.values("score-over-batch-order-sorted")] == [(1, 1), (4, 4)]


def test_a_workload_says_what_is_plotted_and_its_sections_have_plots() -> None:
    page = page_of("plots of its own")
    assert list(page.plots) == ["score", "joined", "section-drawn-0", "section-drawn-1"]
    assert [point["low"] for point in page.values("section-drawn-0")] == [1.5, 1.5]
    assert [point["x"] for point in page.values("section-drawn-1")] == [1.0, 10.0, 100.0]


def test_the_table_of_all_cells_has_every_column_with_a_figure_and_what_it_means() -> None:
    page = page_of("small")
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert {"median ms", "ms/sample", "tokens/s", "load s", "parity"} <= set(page.texts)
    assert any("median over the batch size" in str(head.get("title")) for head in heads)
    assert "p99 ms" not in page.texts


def test_the_last_of_several_runs_is_held_against_the_first() -> None:
    assert re.search(r"1×16 onnx 10\.0\d 5\.0\d+ 0\.50", page_of("two runs").shown)


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


def test_series_are_told_apart_and_sizes_are_chosen_evenly() -> None:
    assert len({(COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]) for i in range(24)}) == 24
    assert evenly(list(range(49)), 4) == [0, 16, 32, 48]


def test_plots_are_images_too() -> None:
    found = render.images([run_of([record("eager"), record("onnx", ms=5.0)])])
    assert {"median-ms", "parity", "memory", "rounds-0", "one-time-costs"} <= set(found)
    assert all(content.startswith(b"\x89PNG") for content in found.values())


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


def shown(browser: Any, folder: Path, name: str, *size: Any) -> list[Any]:
    """Show the page of a case; what overlaps, what it says on the console or asks of the network, a wrong colour."""
    path = folder / f"{name}.html"
    path.write_text(page_of(name).source)
    page_image.show(browser, path, *size)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = browser.execute_script(LAYOUT, size[0])
    paper, ink, label = (sum(map(int, re.findall(r"\d+", found[one])[:3])) for one in ("paper", "ink", "label"))
    is_dark = size[2:] == ("dark",)
    is_coloured = (paper < 150 and min(ink, label) > 550) if is_dark else (paper > 700 and max(ink, label) < 200)
    wrong = {"scrolls": found["scrolls"], "owned": browser.title == "owned", "colours": not is_coloured}
    return [*found["clashes"], *noise(browser), *(name for name, is_wrong in wrong.items() if is_wrong)]


def noise(browser: Any) -> list[str]:
    """What the console showed, and what was asked of the network beside the page, since the last call."""
    found = [line["message"] for line in browser.get_log("browser")]
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            found += [] if url.startswith(("file:", "data:")) and url.endswith(".html") else [url]
    return found


LAYOUT = Path(__file__).with_name("layout.js").read_text()
CLOSED = "return document.querySelectorAll('details:not([open])').length"
ROWS = (
    "return [...arguments[0].tBodies[0].rows].filter((r) => !r.hidden).map((r) => [...r.cells].map((c) => c.innerText))"
)


def test_in_a_browser_hover_shows_values_and_the_table_sorts_and_filters(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    assert shown(browser, tmp_path, "small", 1280, 844) == []
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("Take onnx: ")
    figures = browser.find_elements(By.CSS_SELECTOR, "[data-chart]")
    assert len(figures) == len(browser.find_elements(By.CSS_SELECTOR, "[data-chart] svg")) > 10

    chart = browser.find_element(By.CSS_SELECTOR, "[data-chart='median-ms-over-length-batch-1']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    point = chart.find_elements(By.CSS_SELECTOR, ".mark-symbol path")[0]
    ActionChains(browser).move_to_element(point).perform()
    tooltip = browser.find_element(By.ID, "vg-tooltip-element")
    assert "visible" in tooltip.get_attribute("class")
    said = re.search(r"median ms\s+([\d.]+)", tooltip.text)
    assert said is not None
    assert said[1] in {one["figure"] for one in page_of("small").values("median-ms-over-length-batch-1")}

    table = browser.find_element(By.CSS_SELECTOR, "#cells table")
    column = [head.text for head in table.find_elements(By.TAG_NAME, "th")].index("median ms")
    button = table.find_elements(By.TAG_NAME, "button")[column]
    for direction in ("ascending", "descending"):
        button.click()
        values = [float(row[column].lstrip("!")) for row in browser.execute_script(ROWS, table)]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(values) == 8
        assert table.find_elements(By.TAG_NAME, "th")[column].get_attribute("aria-sort") == direction
    browser.find_element(By.CSS_SELECTOR, ".filter input").send_keys("onnx ×64")
    kept = browser.execute_script(ROWS, table)
    assert [(row[0], row[1]) for row in kept] == [("4×64", "onnx"), ("1×64", "onnx")]
    assert browser.find_element(By.CSS_SELECTOR, ".filter output").text == "2 of 8 cells"

    browser.refresh()
    page_image.show(browser, tmp_path / "small.html", 1280, 844)
    assert browser.execute_script(CLOSED) > 5
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    assert len(printed["data"]) > 50_000
    assert browser.execute_script(CLOSED) == 0  # on paper every table is open
    assert noise(browser) == []
    for plant, words in (
        ("document.querySelector('#throughput .charts').style.marginTop = '-60px'", "throughput: "),
        ("document.querySelector('#fastest h2').style.width = '9000px'", "beyond the edge"),
    ):
        browser.execute_script(plant)  # the check of the layout sees what overlaps
        found = browser.execute_script(LAYOUT, 1280)
        assert any(words in clash for clash in found["clashes"]), plant
        assert found["scrolls"] == ("9000px" in plant)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("small", "dark"),
        ("failed cells", "light"),
        ("no record", "light"),
        ("two runs", "light"),
        ("long names", "light"),
        ("two without times", "light"),
        ("plots of its own", "light"),
        ("hostile", "light"),
    ],
)
def test_in_a_browser_pages_are_quiet_and_fit_a_phone(browser: Any, tmp_path: Path, name: str, scheme: str) -> None:
    assert shown(browser, tmp_path, name, 390, 844, scheme) == []
