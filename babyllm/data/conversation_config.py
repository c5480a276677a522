"""The section `data` of a fine-tuning configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import AnyCount, Count, Members, PathText
from babyllm.data.chat_config import ChatConfig
from babyllm.data.row_config import CompetenceConfig

SAMPLE = "data/sample_sft"
STORE = "conversations"  # in the run directory


@dataclass(frozen=True)
class ConversationConfig(ChatConfig):
    """The section `data` of a fine-tuning configuration; a sequence is a conversation, and domains are its tasks.

    Attributes:
        global_batch: conversations (rows, when packed) per optimizer step, over all ranks.
        path: files or folders of conversations (.jsonl, .json, .csv, .parquet), names of data.registry, or a list of
            them; null takes the sample set.
        held_out: share or number of the conversations that are held out, such as 0.02 or 200; a hash of each decides,
            so equal conversations are in the same split.
        repetitions: whether conversations that repeat an earlier one exactly are dropped, or kept. A conversation of
            held_out_path stays rather than its copy in other files.
        turns: answers that are trained on: all of them, the last, or each as a conversation of its own (each).
        prompts: whether messages of other roles than the assistant are trained on, too.
        weights: weight 0 or 1 by role, such as {narrator: 1}, for messages without a weight of their own.
        too_long: treatment of conversations above seq_len: drop their oldest turns (drop_oldest), cut off their end,
            without an end token (truncate), or leave them out (skip).
        max_prompt: largest number of tokens in a message that is not the assistant's, without the template's tokens;
            null for no limit.
        max_answer: largest number of tokens in an answer; null for no limit.
        cut_prompt: side at which a prompt above max_prompt is cut, left or right; skip leaves its conversation out.
        cut_answer: side at which an answer above max_answer is cut, or skip; an answer whose end is cut off has no end
            token.
        curriculum: order of easy and hard conversations, or rows of them when packed; sources are tasks.
        pack: whether several conversations share a row.
        eval_conversations: held-out conversations of each task that are read at each evaluation.
        replay: directory of token shards whose text is mixed in as the task "replay", by data.mix or data.stages.
    """

    global_batch: Members = 32
    repetitions: Literal["drop", "keep"] = "drop"
    turns: Literal["all", "last", "each"] = "all"
    prompts: bool = False
    weights: dict[str, int] = field(default_factory=dict)
    too_long: Literal["drop_oldest", "truncate", "skip"] = "drop_oldest"
    max_prompt: Count | None = None
    max_answer: Count | None = None
    cut_prompt: Literal["left", "right", "skip"] = "left"
    cut_answer: Literal["left", "right", "skip"] = "right"
    curriculum: CompetenceConfig = field(default_factory=CompetenceConfig)
    pack: bool = False
    eval_conversations: AnyCount = 500
    replay: PathText | None = None
