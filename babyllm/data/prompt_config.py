"""The section `data` of stages whose model writes its own answers."""

from __future__ import annotations

from dataclasses import dataclass

from babyllm.config.values import AnyCount, Count, Members, Share
from babyllm.data.chat_config import ChatConfig
from babyllm.errors import UserError


@dataclass(frozen=True)
class PromptConfig(ChatConfig):
    """Prompts to which the model writes answers that are rewarded.

    A record is a conversation or a prompt. Its last answer, if there is one, is not read by the model; rewards may
    compare with it.

    Attributes:
        path: files or folders of prompts (.jsonl, .json, .csv, .parquet), names of data.registry, or a list of them.
        global_batch: answers per rollout, over all ranks, each of which one optimizer step reads.
        seq_len: largest number of tokens of a prompt and its answer together.
        max_new_tokens: largest number of tokens of an answer, its end token included.
        max_prompt: largest number of tokens of a prompt; longer ones are counted and left out. null takes
            data.seq_len - data.max_new_tokens.
        held_out: share or number of the prompts that are held out, such as 0.02 or 200; a hash of each decides, so
            equal prompts are in the same split.
        eval_prompts: largest number of held-out prompts that are answered at each evaluation.
    """

    global_batch: Members = 64
    seq_len: Members = 256
    max_new_tokens: Count = 128
    max_prompt: Count | None = None
    held_out: AnyCount | Share = 0.05
    eval_prompts: AnyCount = 64

    @property
    def prompt_limit(self) -> int:
        """The largest number of tokens of a prompt.

        Raises:
            UserError: prompt and answer do not fit into a row.
        """
        room = self.seq_len - self.max_new_tokens
        limit = room if self.max_prompt is None else self.max_prompt
        if limit < 1 or limit > room:
            raise UserError(
                f"data.seq_len={self.seq_len}: no room for prompts of {max(limit, 1)} tokens and answers of "
                f"data.max_new_tokens={self.max_new_tokens}; give at least {max(limit, 1) + self.max_new_tokens}"
            )
        return limit
