"""How byte-level vocabularies split a text before they join bytes: the names in GGUF files, and `tokenizer.json`.

tokenizer.ggml.pre <-> regular expressions, applied one after the other <-> `pre_tokenizer` and `normalizer`
"""

from __future__ import annotations

from typing import Any, NamedTuple

from babyllm.tokenizer.training import WORDS


class Split(NamedTuple):
    """A way to split texts.

    Attributes:
        patterns: regular expressions; each splits the parts that the one before has left.
        ignores_merges: whether a part that is a token stays whole, without a look at the merges.
    """

    patterns: tuple[str, ...]
    ignores_merges: bool = False


_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = WORDS.replace(rf"|{_DIGIT}|", r"|\p{N}{1,3}|")
_QWEN35 = WORDS.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")

SPLITS = {
    "qwen2": Split((WORDS,)),
    "llama-bpe": Split((_LLAMA3,), ignores_merges=True),
    "smollm": Split((_DIGIT, _GPT2)),
    "gpt-2": Split((_GPT2,)),
    "qwen35": Split((_QWEN35,)),
    "smaug-bpe": Split((_LLAMA3,)),
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
"""The splits that are read and written, by their name in GGUF."""
_SAME_AS = {
    **dict.fromkeys(("deepseek-r1-qwen", "hunyuan", "megrez", "stablelm2"), "qwen2"),
    **dict.fromkeys(("falcon3", "llama-v3", "llama3"), "llama-bpe"),
    **dict.fromkeys(("codeshell", "command-r", "exaone", "minerva-7b", "refact", "starcoder"), "smollm"),
    **dict.fromkeys(("mpt", "olmo", "phi-2"), "gpt-2"),
    "dbrx": "smaug-bpe",
}


def split_called(name: str) -> Split | None:
    """The split with a name in GGUF files; None if it is not known."""
    return SPLITS.get(_SAME_AS.get(name, name))


def name_of(content: dict[str, Any]) -> str | None:
    """The name in GGUF of the split that a tokenizer.json makes; None if it has none.

    Args:
        content: object in the file.
    """
    normalizer = content.get("normalizer")
    patterns = _patterns(content.get("pre_tokenizer"))
    ignores_merges = bool(content["model"].get("ignore_merges"))
    for name, split in SPLITS.items():
        if patterns == list(split.patterns) and ignores_merges == split.ignores_merges:
            # Qwen's own vocabularies compose characters first, which other programs leave out.
            is_known = normalizer is None or (name == "qwen2" and normalizer == {"type": "NFC"})
            return name if is_known else None
    return None


def _patterns(step: Any) -> list[str] | None:
    """The regular expressions that a pre-tokenizer applies before it maps bytes; None if it does anything else."""
    if not isinstance(step, dict):
        return None
    if step.get("type") == "Sequence":
        found = [_patterns(part) for part in step.get("pretokenizers", [])]
        return None if None in found else [pattern for patterns in found for pattern in patterns or ()]
    if step.get("type") == "ByteLevel":
        return None if step.get("add_prefix_space", True) else [_GPT2] * bool(step.get("use_regex", True))
    if step.get("type") == "Digits":
        return [_DIGIT] if step.get("individual_digits") else None
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step.get("pattern", {}).get("Regex")
        return None if pattern is None else [pattern]
    return None
