"""A workload of nobody's: that of forward under another name, with an option that was renamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import options
from bench.options import option
from bench.workloads.forward import Forward, ForwardOptions

HOME = "tests.toy:Toy"


@dataclass(frozen=True, kw_only=True)
class ToyOptions(ForwardOptions):
    """Options of `bench toy`."""

    command: ClassVar[str] = "toy"
    function: ClassVar[str] = ""
    summary: ClassVar[str] = "Play with every candidate, and say how that went."

    max_toys: int = option("Toys at once.", options.whole(1, 9, 3), default=4, aliases=("--most-toys",))
    loud: bool = option("Play loudly.", options.flag, default=True, aliases=("--noisy",))
    colours: tuple[str, ...] = option("A colour. May be repeated.", options.paths, default=(), repeats=True)


class Toy(Forward):
    """Forward passes that are called play."""

    name = "toy"
    Options = ToyOptions
