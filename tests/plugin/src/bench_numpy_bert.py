"""BERT's forward pass in NumPy, as a backend of runtimebench."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from backends.base import Backend, Batch, Options, Spec, UnsupportedError


class NumpyBert(Backend):
    """Reads the shared checkpoint (config.json, model.safetensors) and computes the last hidden state."""

    spec = Spec(name="numpy", format="checkpoint", requires=("numpy", "safetensors"), install="bench-numpy-bert")

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        from safetensors.numpy import load_file

        assert path is not None
        self.config = json.loads((path / "config.json").read_text())
        if self.config["model_type"] != "bert":
            raise UnsupportedError(f"numpy runs bert alone, not {self.config['model_type']}; use --backends eager")
        self.weights = load_file(path / "model.safetensors")

    def prepare(self, batch: Batch) -> Any:
        return batch["input_ids"], batch["attention_mask"]

    def run(self, prepared: Any) -> Any:
        import numpy as np

        ids, mask = prepared
        heads = self.config["num_attention_heads"]
        embeddings = "embeddings.{}_embeddings.weight".format
        x = self.weights[embeddings("word")][ids]
        x = x + self.weights[embeddings("position")][: ids.shape[1]] + self.weights[embeddings("token_type")][0]
        x = self._norm(x, "embeddings.LayerNorm")
        bias = np.where(mask[:, None, None, :] == 1, 0, np.finfo(np.float32).min).astype(np.float32)
        for layer in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                self._linear(x, f"{at}.attention.self.{name}").reshape(*ids.shape, heads, -1).swapaxes(1, 2)
                for name in ("query", "key", "value")
            )
            scores = q @ k.swapaxes(2, 3) / np.float32(math.sqrt(q.shape[-1])) + bias
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            context = (weights / weights.sum(axis=-1, keepdims=True)) @ v
            context = context.swapaxes(1, 2).reshape(x.shape)
            x = self._norm(
                x + self._linear(context, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm"
            )
            hidden = self._linear(x, f"{at}.intermediate.dense")
            hidden = hidden * (1 + np.vectorize(math.erf, otypes=[np.float32])(hidden / math.sqrt(2))) / 2
            x = self._norm(x + self._linear(hidden.astype(np.float32), f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return x

    def _linear(self, x: Any, name: str) -> Any:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: Any, name: str) -> Any:
        import numpy as np

        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self.config["layer_norm_eps"]))
        return centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def fetch(self, outputs: Any) -> dict[str, Any]:
        return {"last_hidden_state": outputs.copy()}
