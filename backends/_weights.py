"""The memory gauge of runtimes whose allocator cannot be asked."""

from __future__ import annotations


class WeightGauge:
    """Tells the bytes of the weights alone."""

    weight_bytes: int

    def memory(self) -> dict[str, int]:
        return {"parameters_bytes": self.weight_bytes}

    def reset_memory_peak(self) -> None:
        """No peak is known."""

    def trim(self) -> None:
        """No cached memory is known."""
