"""benchmarks/where_time_goes.py: what a GPU's kernels are, by their names, and what may be profiled there."""

from __future__ import annotations

from types import ModuleType

import pytest

SCRIPT = "where_time_goes"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x128x8", "products"),
        ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", "products"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_256x128_8x4_tn_align1>(Params)", "products"),
        ("triton_tem_fused_addmm_3", "products"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "attention"),
        ("void (anonymous namespace)::softmax_warp_forward<float>", "attention"),
        ("void onnxruntime::cuda::cuApplyLayerNorm<float, float, float>", "layer norm"),
        ("triton_poi_fused_gelu_7", "Triton's fusions"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "elementwise and others"),
    ],
)
def test_a_gpus_kernels_are_told_apart_by_name(script: ModuleType, name: str, kind: str) -> None:
    times, counts = script.by_kind([(name, 3), (name, 4)])
    assert (times, counts) == ({kind: 7}, {kind: 2})


def test_every_backend_of_a_gpu_may_be_profiled_there(script: ModuleType) -> None:
    found = script.variants()
    assert {"eager", "onnx:cuda-graphs", "compile:reduce-overhead", "aoti", "torchscript"} <= set(found)
    assert not {"openvino", "null"} & set(found)
