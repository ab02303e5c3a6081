"""Memory and sizes that were measured by hand on an RTX 3090, claim by claim."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from bench.study.claims import BY_HAND, CARD, NAMES, Claim
from bench.study.figures import CUDA, Figures, Held
from bench.study.findings import ABOUT, CONFIRMED, REFUTED, UNDECIDED, WITHIN_ABOUT, Finding, not_tested
from bench.workloads import published
from bench.workloads.published import JudgedRow

GIB, MIB, FP32_BYTES = 2**30, 2**20, 4
#: Millions, as they were given there.
PARAMETERS = {"bert": 110, "gpt": 124, "gpt2-medium": 355}
PARAMETER_MARGIN = 0.01
CACHED_BYTES, CACHED_LENGTH = 4 * 2 * 768 * 512 * 12, 512
MEMORY_NEEDS = "bench memory --model gpt2 --device cuda; bench memory --model gpt2-medium --device cuda"


def _published_process_mib() -> dict[str, int]:
    """MB of the whole process on the card by model, once it was loaded: a tool's word for MiB."""
    data = json.loads((published.FIGURES / "rtx3090-memory.json").read_text())
    return {model: held["process_mib"] for model, held in data["loaded"].items()}


def out_of_memory(row: JudgedRow, card_bytes: int) -> Callable[[Figures], Finding]:
    """A pass with gradients on does not fit into the card's memory."""
    limit = f"{card_bytes / GIB:.2f} GiB"

    def weigh(figures: Figures) -> Finding:
        plain = figures.padded(row.model, row.batch, row.length)
        without: tuple[str, ...] = ()
        if plain is not None and plain.is_usable and plain.peak_bytes is not None:
            word = "fits" if plain.peak_bytes <= card_bytes else "does not fit either"
            without = (f"without gradients {plain.peak_bytes / GIB:.2f} GiB, which {word}",)
        grad = figures.padded(row.model, row.batch, row.length, "eager:grad")
        if grad is not None and grad.is_usable and grad.peak_bytes is not None:
            line = f"one call with gradients allocates {grad.peak_bytes / GIB:.2f} GiB against {limit}"
            return Finding(CONFIRMED if grad.peak_bytes > card_bytes else REFUTED, (line, *without))
        if grad is not None and grad.status == "oom":
            here = (grad.source.fingerprint.get("gpus") or [{}])[0].get("total_bytes") or 0
            if here >= card_bytes:
                line = f"one call with gradients runs out of the {here / GIB:.1f} GiB of this card too"
                return Finding(CONFIRMED, (line, *without))
        stored = next(
            (
                one
                for one in figures.stored
                if (one.source.device, one.model, one.length) == (CUDA, row.model, row.length)
            ),
            None,
        )
        held = figures.held_by_eager(row.model, CUDA)
        if stored is None or held is None:
            return not_tested(*without)
        needed = held.parameters_bytes + row.batch * stored.bytes_per_sequence
        line = (
            f"autograd keeps {stored.bytes_per_sequence / MIB:.0f} MiB a sequence; with the weights that makes "
            f"{needed / GIB:.2f} GiB against {limit}"
        )
        return Finding(CONFIRMED if needed > card_bytes else REFUTED, (line, *without))

    return weigh


def _process(model: str, mib: int) -> Callable[[Figures], Finding]:
    def weigh(figures: Figures) -> Finding:
        held = figures.held_by_eager(model, CUDA)
        if held is None or held.process_bytes is None:
            return not_tested()
        here = held.process_bytes / MIB
        is_near = mib / ABOUT <= here <= mib * ABOUT
        return Finding(CONFIRMED if is_near else REFUTED, (f"here the process holds {here:.0f} MiB", *_parts(held)))

    return weigh


def _parts(held: Held) -> Iterator[str]:
    yield f"parameters and buffers are {held.parameters_bytes / MIB:.0f} MiB of it"
    if held.context_bytes is not None:
        yield f"the runtime's own context and kernels are {held.context_bytes / MIB:.0f} MiB, whatever the model"


def _more_than_parameters(figures: Figures) -> Finding:
    held = figures.held_by_eager("gpt2-medium", CUDA)
    if held is None or held.process_bytes is None:
        return not_tested()
    beside = held.process_bytes - held.parameters_bytes
    line = f"beside parameters and buffers the process holds {beside / MIB:.0f} MiB"
    small = figures.held_by_eager("gpt2", CUDA)
    lines = [line, *_parts(held)]
    if small is not None and small.process_bytes is not None:
        lines.append(f"with GPT-2 small it holds {(small.process_bytes - small.parameters_bytes) / MIB:.0f} MiB beside")
    return Finding(CONFIRMED if beside > held.parameters_bytes / 10 else REFUTED, tuple(lines))


def _parameters(model: str, millions: int) -> Callable[[Figures], Finding]:
    def weigh(figures: Figures) -> Finding:
        held = figures.held_by_eager(model)
        if held is None:
            return not_tested()
        here = held.parameters_bytes / FP32_BYTES / 1e6
        line = f"parameters and buffers are {held.parameters_bytes:,} bytes in fp32, {here:.1f} M elements"
        if here < millions * (1 - PARAMETER_MARGIN):
            return Finding(REFUTED, (line, "buffers included, it has fewer"))
        if here <= millions * (1 + PARAMETER_MARGIN):
            return Finding(CONFIRMED, (line,))
        return Finding(UNDECIDED, (line, "what is above the claim may be buffers"))

    return weigh


def _cached(figures: Figures) -> Finding:
    found = next((one for one in figures.cached if (one.model, one.length) == ("gpt", CACHED_LENGTH)), None)
    if found is None:
        return not_tested()
    line = f"{found.bytes_per_sequence:,} bytes by layers, heads and head width of the model that was loaded"
    return Finding(CONFIRMED if found.bytes_per_sequence == CACHED_BYTES else REFUTED, (line,))


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"{NAMES[model]}: {mib} MB once loaded",
            f"{NAMES[model]} takes {mib} MB of the card once it is loaded, before any input.",
            BY_HAND,
            CUDA,
            f"What the process of eager holds of the device's memory, {WITHIN_ABOUT} of the claim.",
            MEMORY_NEEDS,
            _process(model, mib),
            CARD,
        )
        for model, mib in _published_process_mib().items()
    ),
    Claim(
        "GPT-2 medium: more than its 355 M need",
        "GPT-2 medium takes 2093 MB while the model only has 355 M parameters.",
        BY_HAND,
        CUDA,
        "Confirmed where the process holds over a tenth more of the device's memory than parameters and buffers take.",
        MEMORY_NEEDS,
        _more_than_parameters,
        CARD,
    ),
    *(
        Claim(
            f"{NAMES[model]} has {millions} M parameters",
            f"{NAMES[model]} has {millions} M parameters.",
            BY_HAND,
            "any",
            f"Bytes of parameters and buffers in fp32 by {FP32_BYTES}, within {PARAMETER_MARGIN:.0%} of the claim; "
            "refuted below that, since buffers only add to it.",
            f"bench memory --model {model}",
            _parameters(model, millions),
        )
        for model, millions in PARAMETERS.items()
    ),
    Claim(
        "GPT: 37,748,736 bytes of keys and values",
        "Keys and values of GPT take 4 bytes × 2 × 768 × 512 × 12 layers = 37,748,736 bytes a sequence.",
        BY_HAND,
        "any",
        "Confirmed where the formula over the loaded model's own layers, heads and widths gives the same number.",
        "bench memory --model gpt --length 512",
        _cached,
    ),
)
