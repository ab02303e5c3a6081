"""optimum's ORTModel over its own ONNX export, plain or at its levels O1 to O4: what a user of that package gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends._onnx_providers import has_library_of
from backends._torch import TorchDevice, cuda_reason
from backends._weights import WeightGauge
from backends.base import BackendError, Batch, Options, Spec, read_metadata

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: The level that computes in fp16, on a GPU alone.
OF_A_GPU = "O4"


class Optimum(TorchDevice, WeightGauge):
    """`ORTModelForFeatureExtraction`, or `ORTModelForCausalLM` without cache, on torch tensors with its I/O binding.

    It gets every input that the exported graph has: ids of token types are zeros, and positions count from 0 as they
    do in transformers' own forward; left to itself, optimum counts a language model's by the mask.
    It has no device clock: the session's work stands on a stream of its own, and each call waits for it.
    """

    spec = Spec(
        name="optimum",
        format="optimum",
        variants={"default": {}, **{f"O{level}": {"format": f"optimum-o{level}"} for level in (1, 2, 3, 4)}},
        precisions={"cpu": ("fp32",), "cuda": ("fp32", "fp16")},
        requires=("optimum", "onnxruntime", "transformers", "torch", "onnx"),
        distributions=("optimum-onnx",),  # optimum alone can be imported without it
        install="runtimebench[optimum]",
        requirements=Path(__file__).parent / "requirements" / "optimum.txt",
        takes_tf32=True,
    )

    @classmethod
    def supports(cls, variant: str, device: str, precision: str) -> str | None:
        if reason := cls.spec.refusal(device, precision):
            return reason
        if device == "cuda":
            if not has_library_of("cuda"):
                return (
                    "optimum on cuda needs onnxruntime-gpu in its environment, and the CPU build is there; "
                    "run: bench env create optimum --requirements FILE, with onnxruntime-gpu in it"
                )
            if reason := cuda_reason(cls.spec.name):
                return reason
        if variant == OF_A_GPU and device == "cpu":
            return "optimum:O4 computes in fp16, which optimum has for a GPU alone; use optimum:O3, or --device cuda"
        if variant == OF_A_GPU and precision != "fp16":
            return f"optimum:O4 computes in fp16 and not in {precision}; use --precisions fp16"
        if variant != OF_A_GPU and precision == "fp16":
            return "optimum has fp16 at its level O4 alone; use optimum:O4"
        return None

    def load(self, path: Path | None, *, device: str, precision: str, threads: int, options: Options) -> None:
        import onnxruntime as ort
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForFeatureExtraction

        assert path is not None
        self.device, self.threads, self.metadata = device, threads, read_metadata(path)
        torch.set_num_threads(threads)
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 3
        is_language_model = self.metadata["task"] == "lm"
        opened_by = ORTModelForCausalLM if is_language_model else ORTModelForFeatureExtraction
        self.has_tf32 = bool(options.get("tf32"))
        provider_options = {"use_tf32": str(int(self.has_tf32))} if device == "cuda" else {}
        self.model = opened_by.from_pretrained(
            path, local_files_only=True, provider=PROVIDERS[device], provider_options=provider_options,
            session_options=session_options, use_io_binding=True, **({"use_cache": False} if is_language_model else {}),
        )  # fmt: skip
        if self.model.providers[0] != PROVIDERS[device]:
            active = ", ".join(self.model.providers)
            raise BackendError(f"{PROVIDERS[device]} was asked for and ONNX Runtime took {active}")
        self.taken = frozenset(self.model.input_names)
        self.weight_bytes = sum(file.stat().st_size for file in path.glob("*.onnx*"))

    def prepare(self, batch: Batch) -> Any:
        import torch

        given = {
            name: torch.as_tensor(array, device=self.device).contiguous()
            for name, array in zip(self.metadata["inputs"], batch.values(), strict=True)
        }
        ids = given["input_ids"]
        if "token_type_ids" in self.taken:
            given["token_type_ids"] = torch.zeros_like(ids)
        if "position_ids" in self.taken:
            given["position_ids"] = torch.arange(ids.shape[1], device=self.device).expand_as(ids).contiguous()
        self.synchronize()
        return given

    def run(self, prepared: Any) -> Any:
        return self.model(**prepared)

    def tensors(self, outputs: Any) -> tuple[Any, ...]:
        return (outputs[0],)

    def fetch(self, outputs: Any) -> dict[str, Any]:
        self.synchronize()
        return {self.metadata["outputs"][0]: outputs[0].detach().cpu().numpy()}

    def close(self) -> None:
        self.model = None

    def facts(self) -> dict[str, Any]:
        import onnxruntime as ort

        return {
            "providers": list(self.model.providers),
            "threads": self.threads,
            "interop_threads": 1,
            "io_binding": bool(self.model.use_io_binding),
            "level": self.metadata["level"],
            "nodes": self.metadata["nodes"],
            "fused_operators": self.metadata["fused"],
            "tf32": self.has_tf32,
            "onnxruntime": ort.__version__,
        }
