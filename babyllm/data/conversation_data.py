"""The data of supervised fine-tuning: conversations prepared once into the run directory, and the loader over them.

section `data` -> conversations on disk -> one a row, or packed -> all, or a Mixture of tasks -> by length -> Loader
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from babyllm.chat.formats import FormatConfig
from babyllm.chat.limits import MessageLimits
from babyllm.chat.load import ChatTemplate, Supervise
from babyllm.config.values import AnyCount, Count, Members, PathText, Share, check, expand_paths
from babyllm.data.loader import Loader
from babyllm.data.order.length_buckets import ByLength
from babyllm.data.order.mixing import Mixture
from babyllm.data.order.shuffle import Rows, Shuffled
from babyllm.data.row_config import RowConfig, mixture, share_of
from babyllm.data.rows.conversations import Conversations, PackedConversations
from babyllm.data.rows.replay import REPLAY, Replay
from babyllm.data.rows.windows import Windows
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import print_report
from babyllm.prepare.conversations import prepare_conversations
from babyllm.prepare.encode import load_tokenizer
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.conversations import ALL, ConversationStore, LossAverage
from babyllm.store.shards import TokenData, open_tokens

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


@dataclass(frozen=True)
class ConversationData:
    """Prepared conversations, and the text that is replayed among them."""

    store: ConversationStore
    replay: TokenData | None
    normalise: LossAverage
    is_packed: bool
    seed: int
    _rows: dict[tuple[int, str | None], Rows] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks; channels are their indices."""
        return [*self.store.tasks, *([REPLAY] if self.replay else [])]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the data."""
        return self.store.fingerprint + (self.replay.manifest.fingerprint() if self.replay else "")

    def rows(self, seq_len: int, task: str | None = None) -> Rows:
        """The training rows of a task, or of all conversations.

        Raises:
            UserError: there are none, or one is longer than `seq_len`.
        """
        if (seq_len, task) not in self._rows:
            self._rows[seq_len, task] = self._open_rows(seq_len, task)
        return self._rows[seq_len, task]

    def _open_rows(self, seq_len: int, task: str | None) -> Rows:
        if task == REPLAY and self.replay:
            windows = Windows(self.replay.stream("train"), seq_len, self.replay.manifest.eos_id, name="data.replay")
            return Replay(windows, len(self.store.tasks), self.normalise == "token")
        if self.is_packed:
            return PackedConversations(self.store, "train", task, seq_len, self.normalise, self.seed)
        return Conversations(self.store, "train", task, seq_len, self.normalise)


def open_conversation_data(
    config: ConversationConfig, directory: Path, template: ChatTemplate, normalise: LossAverage, runtime: Runtime
) -> ConversationData:
    """The conversations that `config` names, prepared into `directory` if they are not yet; every rank must call it.

    Args:
        config: the section `data`.
        directory: of the prepared conversations.
        template: renders them.
        normalise: what a loss is the mean over.
        runtime: of the run.

    Raises:
        UserError: names the file or flag at fault.
    """
    check(config, "data.")
    paths = [config.path] if isinstance(config.path, str) else config.path or []
    with runtime.main_first():
        report = prepare_conversations(
            [Path(path) for path in paths],
            directory,
            template,
            config.format,
            seq_len=config.longest_seq_len,
            supervise=Supervise("last" if config.turns == "last" else "all", config.prompts, config.weights),
            is_split=config.turns == "each",
            too_long=config.too_long,
            limits=MessageLimits(config.max_prompt, config.max_answer, config.cut_prompt, config.cut_answer),
            held_out=config.held_out,
            held_out_paths=[Path(path) for path in config.held_out_path],
            work=config.work,
        )
        if report:
            print_report(report)
        store = ConversationStore.open(directory, check=runtime.is_main)
        replay = open_tokens(config.replay, check=runtime.is_main) if config.replay else None
    if ALL in store.tasks:
        raise UserError(f"{directory}: a task of the conversations has the name '{ALL}', as the total has; rename it")
    if replay:
        if not config.is_mixed:
            raise UserError(
                f"data.replay={config.replay}: say how much of it, with data.mix or data.stages, such as "
                f"--data.mix='{{{', '.join(f'{task}: 1' for task in store.tasks_of('train')[:3])}, {REPLAY}: 0.1}}'"
            )
        tokenizer = load_tokenizer(Path(config.replay or ""), replay.manifest.tokenizer_sha256)
        if tokenizer and tokenizer.sha256 != template.tokenizer.sha256:
            raise UserError(
                f"data.replay={config.replay}: was made with another tokenizer than the model's; tokenise that text "
                "with the model's"
            )
        if REPLAY in store.tasks:
            raise UserError(f"{directory}: a task of the conversations has the name '{REPLAY}'; give it another")
    return ConversationData(store, replay, normalise, config.pack, config.seed)


def make_loader(
    config: ConversationConfig, data: ConversationData, model: ModelConfig, runtime: Runtime, plan: Plan
) -> tuple[Loader, Plan]:
    """The loader of this rank, and the plan with its number of steps.

    Raises:
        UserError: `global_batch` or `micro_batch` does not divide, or the data cannot be mixed or the plan followed.
    """
    share = share_of(config, model, runtime)
    if config.is_mixed:
        amounts = {task: len(data.rows(config.longest_seq_len, task)) for task in data.store.tasks_of("train")}
        if data.replay:
            amounts[REPLAY] = len(data.rows(config.longest_seq_len, REPLAY))
        order: Mixture | Shuffled
        order, plan = mixture(config, amounts, data.rows, plan)
        borders = order.borders
    else:
        order, borders = Shuffled(data.rows(config.seq_len), config.seed), []
        plan = plan.with_steps(len(order), config.global_batch)
    # Packed rows are of one length as it is.
    sorted_order = order if data.is_packed else ByLength(order, config.global_batch, config.seed, borders)
    pin = runtime.device.type == "cuda"
    return Loader(sorted_order, share, config.seed, data.fingerprint, pin_memory=pin), plan
