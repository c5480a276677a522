"""The section `data` of a fine-tuning configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from babyllm.chat.formats import FormatConfig
from babyllm.config.values import AnyCount, Count, Members, PathText, Share, expand_paths
from babyllm.data.row_config import RowConfig
from babyllm.pipeline.partitions import WorkConfig

if TYPE_CHECKING:
    pass


SAMPLE = "data/sample_sft"
STORE = "conversations"  # in the run directory


@dataclass(frozen=True)
class ConversationConfig(RowConfig):
    """The section `data` of a fine-tuning configuration; a sequence is a conversation, and domains are its tasks.

    Attributes:
        global_batch: conversations (rows, when packed) per optimizer step, over all ranks.
        path: files or folders of conversations (.jsonl, .json, .csv, .parquet), or a list of such; null takes the
            sample set.
        held_out_path: files whose conversations are held out; beside them the share data.held_out of the others is.
        held_out: share of the conversations that is held out, or how many are, such as 0.02 or 200; chosen by a hash
            of each, so that equal ones are on the same side.
        format: how records are read.
        template: chatml, llama3, llama2, alpaca, plain, or a .jinja file; null takes the one stored with the model,
            else chatml.
        efficient_eos: whether the token that ends a turn is also what parts it from the next, with nothing between.
        default_system: what a built-in template tells the model first in conversations without a system message, stored
            with it; null keeps what a stored template has, an empty text none.
        turns: which answers are trained on: all of them, the last, or each as a conversation of its own (each).
        prompts: whether what others say is trained on, too.
        weights: 0 or 1 by role, such as {narrator: 1}, where a message has no weight of its own.
        too_long: what happens to conversations above seq_len: their oldest turns are dropped (drop_oldest), their end
            is cut off, without an end token (truncate), or they are left out (skip).
        max_prompt: most tokens of a message that the assistant has not said, without the template's; null for no limit.
        max_answer: most tokens of an answer; null for no limit.
        cut_prompt: where a prompt above max_prompt is cut, left or right, or that its conversation is left out (skip).
        cut_answer: the same of answers; one whose end is cut off is not taught to end there.
        pack: whether several conversations share a row.
        eval_conversations: held-out conversations of each task that are read at each evaluation.
        replay: a directory of token shards whose text is mixed in as the task "replay", by data.mix or data.stages.
        work: how the machine is used when the conversations are prepared.
    """

    global_batch: Members = 32
    path: PathText | list[PathText] | None = None
    held_out_path: list[PathText] = field(default_factory=list)
    held_out: AnyCount | Share = 0.02
    format: FormatConfig = field(default_factory=FormatConfig)
    template: PathText | None = None
    efficient_eos: bool = False
    default_system: str | None = None
    turns: Literal["all", "last", "each"] = "all"
    prompts: bool = False
    weights: dict[str, int] = field(default_factory=dict)
    too_long: Literal["drop_oldest", "truncate", "skip"] = "drop_oldest"
    max_prompt: Count | None = None
    max_answer: Count | None = None
    cut_prompt: Literal["left", "right", "skip"] = "left"
    cut_answer: Literal["left", "right", "skip"] = "right"
    pack: bool = False
    eval_conversations: AnyCount = 500
    replay: PathText | None = None
    work: WorkConfig = field(default_factory=WorkConfig)

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)
