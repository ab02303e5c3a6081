"""AOTInductor: a package that torch.export and Inductor compiled ahead of time, run without the model's code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backends._torch import TorchBackend, TorchSpec
from backends.base import Options, UnsupportedError, read_metadata


class Aoti(TorchBackend):
    """One .pt2 for all shapes, per device and precision; what torch names as TorchScript's successor.

    It was compiled for the machine that exported it, and loads in a fraction of a second. Variant `max-autotune` had
    its matrix products timed as it was compiled, and took the fastest of each.
    """

    spec = TorchSpec(
        name="aoti",
        format="aoti",
        variants={"default": {}, "max-autotune": {"format": "aoti-max-autotune"}},
        takes_tf32=False,  # what a product rounds to is settled as it is compiled, without TF32
    )

    def open(self, path: Path, precision: str, options: Options) -> Any:
        import torch
        import torch._inductor

        metadata = read_metadata(path)
        self.weight_bytes, self.settings = int(metadata["weight_bytes"]), metadata["settings"]
        if self.device == "cuda" and metadata["capability"] != (here := list(torch.cuda.get_device_capability())):
            made_for = ".".join(map(str, metadata["capability"]))
            raise UnsupportedError(
                f"aoti was compiled for compute capability {made_for}, and this GPU has {'.'.join(map(str, here))}; "
                "use another folder with --artifacts"
            )
        return torch._inductor.aoti_load_package(str(path / "model.pt2"))

    def parameters(self) -> Iterable[Any]:
        return ()  # the package holds them, and hands none out

    def memory(self) -> dict[str, int]:
        return super().memory() | {"parameters_bytes": self.weight_bytes}

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"inductor": self.settings}
