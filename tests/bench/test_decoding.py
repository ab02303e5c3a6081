"""The next token from the logits: greedily, by sampling, by a beam; held against hand-made tables and transformers."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.process.decoding import Beam, Chooser, Decoding, Forced, Greedy, Sample, chooser, parse_decoding

VOCABULARY = 5
#: Logits of the next token behind each token: a chain whose every continuation can be counted out.
TABLE = torch.from_numpy(np.random.default_rng(7).normal(scale=2.0, size=(VOCABULARY, VOCABULARY)))


def continued(choose: Chooser, first: list[int], steps: int) -> list[list[int]]:
    """What `choose` makes of the chain behind the tokens `first`, as the loop drives it."""
    last = torch.tensor(first)
    for _ in range(steps):
        last, order = choose.choose(TABLE[last])
        if order is not None:
            assert sorted({int(row) for row in order}) == sorted({int(row) for row in order if 0 <= row < len(first)})
    return choose.tokens().tolist()


def likelihood(first: int, tokens: tuple[int, ...]) -> float:
    """Log probability of `tokens` behind `first`."""
    log = torch.log_softmax(TABLE.float(), dim=-1)
    return sum(float(log[one, other]) for one, other in itertools.pairwise((first, *tokens)))


def test_a_beam_as_wide_as_all_continuations_finds_the_likeliest() -> None:
    """With every first token on the beam, two further steps lose nothing that could have won."""
    steps, first = 2, 3
    best = max(itertools.product(range(VOCABULARY), repeat=steps), key=lambda tokens: likelihood(first, tokens))
    choose = Beam(VOCABULARY)
    found = continued(choose, [first] * VOCABULARY, steps)
    assert tuple(found[0]) == best
    assert choose.scores is not None
    scores = choose.scores[0].tolist()
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([likelihood(first, tuple(row)) for row in found], rel=1e-5)


def test_beams_of_two_prompts_do_not_mix() -> None:
    apart = [continued(Beam(2), [first] * 2, 4) for first in (1, 4)]
    assert continued(Beam(2), [1, 1, 4, 4], 4) == [*apart[0], *apart[1]]
    order = Beam(2).choose(TABLE[torch.tensor([1, 1, 4, 4])])[1]
    assert order is not None
    assert order.tolist() == [0, 0, 2, 2]


@pytest.mark.filterwarnings("ignore")  # transformers warns about itself
@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_those_of_transformers_generate(beams: int) -> None:
    from exporters import models, sources

    model = models.build(sources.resolve("gpt2-tiny", weights="random", task="lm"))
    prompt = torch.tensor([[5, 9, 700, 31]])
    with torch.inference_mode():
        wanted = model.generate(
            prompt, max_new_tokens=6, min_new_tokens=6, num_beams=beams, do_sample=False, length_penalty=0.0,
            attention_mask=torch.ones_like(prompt), pad_token_id=0, eos_token_id=None,
        )[0, 4:].tolist()  # fmt: skip
        choose = chooser(Decoding("beam", beams) if beams > 1 else Decoding(), 0, "cpu")
        ids = prompt.repeat(beams, 1)
        for _ in range(6):
            tokens, order = choose.choose(model(input_ids=ids).logits[:, -1])
            ids = torch.cat([ids if order is None else ids[order], tokens[:, None]], dim=1)
    assert choose.tokens()[0].tolist() == wanted


def test_sampling_keeps_to_the_k_likeliest_and_to_their_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 1.5]]).repeat(20_000, 1)
    drawn = Sample(3, 0.7, torch.Generator().manual_seed(1)).choose(logits)[0]
    shares = np.bincount(drawn.numpy(), minlength=5) / len(drawn)
    kept = np.exp(np.array([2.0, 1.0, 1.5]) / 0.7)
    expected = kept / kept.sum()
    assert shares[[2, 3]].tolist() == [0, 0]
    # Six standard deviations of a share of so many draws.
    assert shares[[0, 1, 4]] == pytest.approx(expected, abs=6 * 0.5 / np.sqrt(len(drawn)))


def test_the_same_seed_draws_the_same_tokens_and_a_colder_sample_is_nearer_to_greedy() -> None:
    def drawn(seed: int) -> list[list[int]]:
        return continued(chooser(Decoding("sample", top_k=4, temperature=5.0), seed, "cpu"), [0, 1, 2], 12)

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    logits = TABLE[torch.tensor([0])].repeat(200, 1)
    cold = Sample(40, 1e-4, torch.Generator().manual_seed(0)).choose(logits)[0]
    assert set(cold.tolist()) == {int(TABLE[0].argmax())}


def test_tokens_are_forced_on_the_first_sequences_alone() -> None:
    choose = Forced(Greedy(), dict.fromkeys((0, 1), np.array([4, int(TABLE[1].argmax())])))
    logits = TABLE[torch.tensor([1, 1, 1])]
    tokens, _ = choose.choose(logits)
    free = int(TABLE[1].argmax())
    assert free != 4
    assert tokens.tolist() == [4, 4, free]
    assert choose.choose(logits)[0].tolist() == [free] * 3
    assert [choose.repeats(row) for row in (0, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "kind", "beams"), [("greedy", "greedy", 1), ("sample", "sample", 1), ("beam:4", "beam", 4)]
)
def test_decodings_are_read_and_written_alike(text: str, kind: str, beams: int) -> None:
    found = parse_decoding(text, 40, 0.7)
    assert (found.kind, found.beams, found.option) == (kind, beams, text)
    assert Decoding(**asdict(found)) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beams:4", "unknown decoding 'beams:4'; use greedy, sample or beam:4"),
        ("beam:1", "1 is not within 2 and 64 beams"),
        ("beam:65", "65 is not within 2 and 64 beams"),
    ],
)
def test_what_cannot_be_decoded_so_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_decoding(text)
