"""Fields of requests that change nothing here: those of OpenAI's API and of other servers (vLLM, SGLang, llama.cpp).

A field is accepted if the answer is the same without it, since clients send many fields by default. All others are
refused by name.
"""

from __future__ import annotations

from typing import Any

Neutral = dict[str, tuple[Any, ...]]

HARMLESS = frozenset(
    {
        # for the provider's accounting, or for speed
        *("user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "request_id", "rid"),
        *("prompt_cache_retention", "prediction", "cache_prompt", "cache_salt", "id_slot", "keep_alive"),
        # options of features that must be off: tools, reasoning, guided decoding, llama.cpp's other samplers
        *("parse_tool_calls", "stream_reasoning"),
        *("guided_decoding_backend", "guided_whitespace_pattern", "xtc_threshold", "dynatemp_exponent"),
        *("mirostat_tau", "mirostat_eta", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
        "dry_sequence_breakers",
    }
)
"""Fields that change nothing, whatever their value."""

NEUTRAL: Neutral = {
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "function_call": ("none", "auto"),
    "modalities": (["text"], []),
    "verbosity": ("low", "medium", "high"),
    "moderation": ({},),
    # vLLM and SGLang
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "echo": (False,),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "vllm_xargs": ({},),
    "kv_transfer_params": ({},),
    "priority": (0,),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "return_hidden_states": (False,),
    # llama.cpp
    "n_predict": (-1,),
    "top_n_sigma": (-1,),
    "typical_p": (1,),
    "typ_p": (1,),
    "tfs_z": (1,),
    "repeat_penalty": (1,),
    "repeat_last_n": (-1,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "mirostat": (0,),
    "grammar": ("",),
    "n_probs": (0,),
    "min_keep": (0,),
    "n_indent": (0,),
    "n_keep": (0,),
    "n_discard": (0,),
    "t_max_predict_ms": (0, -1),
    "post_sampling_probs": (False,),
    "return_tokens": (False,),
    "return_progress": (False,),
    "timings_per_token": (False,),
    "response_fields": ([],),
    "lora": ([],),
    "thinking_forced_open": (False,),
}
"""Fields that change nothing with one of these values."""

NEUTRAL_IN_COMPLETIONS: Neutral = {
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "add_special_tokens": (True,),
    "top_logprobs": (0,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "separate_reasoning": (True, False),
    "include_reasoning": (True, False),
    "reasoning_format": ("auto", "none", "deepseek"),
}
"""Fields of chats that change nothing in a completion with one of these values."""

HARMLESS_IN_MESSAGES = frozenset({"name", "id"})
"""Fields of messages that are never passed to a template."""

NEUTRAL_IN_MESSAGES: Neutral = {
    "tool_calls": ([],),
    "annotations": ([],),
    "refusal": ("",),
    "images": ([],),
}
"""Fields of an answer that a client sends back unchanged in a later request."""

HARMLESS_IN_PARTS = frozenset({"cache_control"})
NEUTRAL_IN_PARTS: Neutral = {"annotations": ([],)}
