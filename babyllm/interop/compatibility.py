"""What other programs ask of a model's shape, checked before it is trained.

ModelConfig -> remarks, one line each

vLLM: head widths of its FlashAttention and PagedAttention kernels (docs: "Attention backend feature support").
llama.cpp: a row of Q8_0 has blocks of 32 numbers, one of a K-quant of 256; rows that do not divide take a larger type
(llama-quantize: "not divisible by 256, using fallback quantization").
"""

from __future__ import annotations

from collections.abc import Iterator

from babyllm.model.config import ModelConfig

VLLM_WIDTHS = (32, 64, 80, 96, 112, 120, 128, 192, 256)
Q8_BLOCK, K_BLOCK = 32, 256


def remarks(config: ModelConfig) -> Iterator[str]:
    """What other programs cannot do with models of a shape, in a sentence each; nothing for a shape that suits all."""
    width = config.head_width
    if width not in VLLM_WIDTHS:
        known = ", ".join(map(str, VLLM_WIDTHS))
        yield f"vLLM: its attention has no kernel for heads of width {width}; it has {known}"
    if config.qkv_bias and config.head_dim:
        yield f"vLLM: a Qwen2 model has heads of d_model / n_heads there, not model.head_dim={width}"
    rows = {"d_model": config.d_model, "n_heads x head_dim": config.n_heads * width, "d_ff": config.ff_width}
    for block, effect in ((Q8_BLOCK, "F16 in files of Q8_0"), (K_BLOCK, "of a larger type in files of Q4_K_M")):
        if odd := [f"{name} {size}" for name, size in rows.items() if size % block]:
            yield f"llama.cpp, ollama: {', '.join(odd)}: not a multiple of {block}, so such rows are {effect}"
            break
    scaling = config.rope_scaling
    if scaling and scaling.type == "dynamic":
        yield "llama.cpp, ollama: rope_scaling dynamic cannot be written as GGUF; yarn can"
