"""The section `data` of a configuration that learns from preferences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.chat.formats import PreferenceFormat
from babyllm.chat.limits import MessageLimits
from babyllm.config.values import AnyCount, Count, Members
from babyllm.data.chat_config import ChatConfig
from babyllm.data.order.curriculum import CurriculumConfig

SAMPLE = "data/sample_pairs"
STORE = "pairs"  # in the run directory


@dataclass(frozen=True)
class PairConfig(ChatConfig):
    """The section `data` of a configuration that learns from preferences; a sequence is a pair, domains are its tasks.

    Attributes:
        seq_len: tokens per side of a pair; pairs with a longer side are left out.
        global_batch: pairs per optimizer step, over all ranks.
        micro_batch: pairs per rank and forward pass; null chooses a number that fits the device.
        path: files or folders of preferences (.jsonl, .json, .csv, .parquet), names of data.registry, or a list of
            them; null takes the sample set.
        held_out: share or number of the pairs that are held out, such as 0.02 or 200; a hash of each prompt decides, so
            pairs with the same prompt are in the same split.
        repetitions: whether preferences that repeat an earlier one exactly are dropped, or kept. A preference of
            held_out_path stays rather than its copy in other files.
        format: rules by which records are read as preferences.
        max_prompt: largest number of tokens in a message of a prompt, without the template's tokens; null for no limit.
        max_answer: largest number of tokens in an answer; null for no limit.
        cut_prompt: side at which a prompt above max_prompt is cut, left or right; skip leaves its pair out.
        cut_answer: side at which an answer above max_answer is cut, or skip; an answer whose end is cut off has no end
            token.
        curriculum: easy pairs first.
        eval_pairs: held-out pairs that are read at each evaluation.
    """

    seq_len: Members = 256
    global_batch: Members = 32
    repetitions: Literal["drop", "keep"] = "drop"
    format: PreferenceFormat = field(default_factory=PreferenceFormat)
    max_prompt: Count | None = None
    max_answer: Count | None = None
    cut_prompt: Literal["left", "right", "skip"] = "left"
    cut_answer: Literal["left", "right", "skip"] = "right"
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    eval_pairs: AnyCount = 500

    @property
    def limits(self) -> MessageLimits:
        """The largest lengths of messages."""
        return MessageLimits(self.max_prompt, self.max_answer, self.cut_prompt, self.cut_answer)
