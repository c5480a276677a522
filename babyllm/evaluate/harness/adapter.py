"""A model of this project for lm-evaluation-harness: exact scores of texts, and greedy or sampled answers.

    lm_eval: context, continuation -> ids -> questions_of -> units -> OptionReader -> (log-probability, is greedy)
    lm_eval: text                  -> ids -> windows      -> row_nats              -> log-probability
    lm_eval: context, settings     -> ids -> answers                               -> text

Texts have the ids of lm-evaluation-harness's own model for Hugging Face directories, also where a token crosses the
border of context and continuation. What begins an empty context is `Tokenizer.begin_id`.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from babyllm.chat.messages import Message, Unusable
from babyllm.errors import UserError
from babyllm.evaluate.harness.grouped import Pair, questions_of
from babyllm.evaluate.scoring import Row, Score, row_nats
from babyllm.evaluate.tasks.option_nats import OptionReader, Unit, units
from babyllm.evaluate.tasks.responses import weights_hash
from babyllm.generation import Sampling, answers
from babyllm.loading import load_chat_model
from babyllm.progress import ProgressLine
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.runtime.precision import dtype_name, reads_in

try:
    import lm_eval.models  # noqa: F401  # fills the registry, which would stay without the other models
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    raise UserError(f'lm-evaluation-harness lacks {missing.name}: pip install "babyllm[harness]"') from None

GENERATED_TOGETHER = 16
"""Number of answers that are generated together."""
MAX_NEW_TOKENS = 256
"""Largest number of tokens of an answer for a task that names none, as for other models of lm-evaluation-harness."""


@register_model("babyllm")
class BabyLM(TemplateLM):  # type: ignore[misc]
    """A model in a directory, as lm-evaluation-harness uses it.

    The numbers depend on the requests alone: there is no batch size.
    """

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str = "auto",
        max_length: int | None = None,
        int8: bool = False,
        threads: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        """Load a model.

        Args:
            pretrained: run, step, Hugging Face or adapter directory.
            device: cpu, cuda or mps; None takes the first of cuda, mps and cpu that is available, and so does cuda:0,
                which is what the command line passes if no device is named.
            dtype: float32, bfloat16 or float16; auto depends on the device.
            max_length: largest number of tokens that are read together; None takes the model's.
            int8: whether to store all matrices in 8 bits.
            threads: CPU threads; None takes all cores.
            batch_size: no effect.
            max_batch_size: no effect.

        Raises:
            UserError: a file is missing or does not fit, or an argument is out of range.
        """
        super().__init__()
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UserError(f"dtype={dtype}: choose auto, float32, bfloat16 or float16")
        place = "auto" if device in (None, "cuda:0") else str(device)
        self._config = RuntimeConfig(device=place, dtype=dtype, threads=threads)  # type: ignore[arg-type]
        self._name, self._chat = str(pretrained), load_chat_model(pretrained, int8=int8)
        self._model, self._ids_of = self._chat.model, self._chat.tokenizer.encode
        context = self._model.config.max_seq_len
        if max_length is not None and not 2 <= max_length <= context:
            raise UserError(f"max_length={max_length}: must be at least 2 and at most the model's {context}")
        self.max_length = max_length or context
        with self._runtime() as runtime:
            self._model.to(runtime.device)
            self._device, self._dtype = runtime.device, runtime.reading_dtype
            if runtime.world_size > 1:
                raise UserError("the harness runs babyllm in one process; start it without torchrun or accelerate")

    # ---- ids

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._chat.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The id before the first token of a text."""
        return self._chat.tokenizer.begin_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text; special tokens are read by name only after a chat template was applied.

        Args:
            string: text.
            add_special_tokens: False leaves out the token that begins a text, which otherwise comes first if the files
                of the vocabulary say so.
        """
        ids = self._ids_of(string)
        is_wanted = self._chat.tokenizer.adds_bos and add_special_tokens is not False
        return [self.prefix_token_id, *ids] if is_wanted and ids[:1] != [self.prefix_token_id] else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        context_ids, ids = super()._encode_pair(context, continuation)
        if ids:
            return context_ids, ids
        # A token across the border leaves the continuation no token of its own.
        whole = self.tok_encode(context + continuation)
        return whole[:-1] or [self.prefix_token_id], whole[-1:]

    def _ids_with_special(self, text: str) -> list[int]:
        """The ids of a rendered chat, in which special tokens are spelled out."""
        tokenizer = self._chat.tokenizer
        names = sorted(tokenizer.special, key=lambda name: -len(name))
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
        ids = [[tokenizer.special[part]] if i % 2 else tokenizer.encode(part) for i, part in enumerate(parts) if part]
        return [each for some in ids for each in some]

    # ---- chats

    @property
    def tokenizer_name(self) -> str:
        """The name by which lm-evaluation-harness tells cached requests apart."""
        return f"babyllm-{self._chat.tokenizer.sha256[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The Jinja text of the model's chat template; empty if it is not used."""
        return self._chat.template.source if chat_template else ""

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat up to the beginning of the next answer.

        Args:
            chat_history: messages, each with `role` and `content`.
            add_generation_prompt: whether a new answer begins; if not, the last message is the beginning of one.

        Raises:
            UserError: the model has no chat template, or the template refuses the messages.
        """
        if not self._chat.has_learned or self._chat.missing:
            raise UserError(f"{self._name}: has no chat template; leave out --apply_chat_template")
        self._ids_of = self._ids_with_special
        given = [Message(each["role"], each["content"]) for each in chat_history]
        begun = "" if add_generation_prompt else given.pop().content
        try:
            return self._chat.template.prompt_text(given) + begun
        except Unusable as error:
            raise UserError(f"{self._name}: {error}; see --system_instruction and --fewshot_as_multiturn") from None

    # ---- requests

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation in nats, and whether it is what greedy decoding writes.

        Args:
            requests: texts of context and continuation, and ids of both. A context that is too long loses its
                beginning.
        """
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        texts: dict[Pair, list[tuple[str, str]]] = defaultdict(list)
        for pair, (text, *_ids) in zip(pairs, requests, strict=True):
            texts[pair].append(text)
        found: dict[Pair, tuple[float, bool]] = {}
        with self._runtime() as runtime:
            planned = units(questions_of(texts))
            reader = OptionReader(self._model, planned, runtime)
            progress = ProgressLine("requests", len(texts), output=sys.stderr)
            for unit in planned:
                _stop_if_requested(runtime)
                for pair, score in _scored(unit, reader):
                    found[pair] = (-score.nats, score.is_greedy)
                    for text in texts[pair]:
                        self.cache_hook.add_partial("loglikelihood", text, found[pair])
                progress.show(len(found))
            progress.end()
        return [found[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text in nats, after the token that begins a text.

        A text longer than the context is read in windows, of which the last one has a whole context.
        """
        owners: list[int] = []
        rows: list[Row] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                context, scored = make_disjoint_window(window)
                owners.append(number)
                rows.append(_row(context, scored))
        with self._runtime() as runtime:
            nats = row_nats(self._model, rows, runtime)
            _stop_if_requested(runtime)
        results: list[float] = (-np.bincount(np.array(owners, np.int64), nats, len(requests))).tolist()
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return results

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each context, without the string that ended it.

        A context that leaves too little room for an answer loses its beginning.

        Raises:
            UserError: a setting of a task is out of range.
        """
        asked = [self._asked(number, *request.args) for number, request in enumerate(requests)]
        made: list[str] = []
        with self._runtime() as runtime, reads_in(runtime.device, runtime.reading_dtype):
            progress = ProgressLine("answers", len(asked), output=sys.stderr)
            for i in range(0, len(asked), GENERATED_TOGETHER):
                _stop_if_requested(runtime)
                part = asked[i : i + GENERATED_TOGETHER]
                made += [each.text for each in answers(self._model, self._chat.tokenizer, part, self._model.end_ids)]
                for request, text in zip(requests[i:], made[i:], strict=False):
                    self.cache_hook.add_partial("generate_until", request.args, text)
                progress.show(len(made))
            progress.end()
        return made

    def _asked(self, number: int, context: str, settings: Mapping[str, Any]) -> tuple[list[int], Sampling]:
        """The ids of a context that leaves room for an answer, and the settings of the answer."""
        given = normalize_gen_kwargs(dict(settings), MAX_NEW_TOKENS)
        n_new = given["max_gen_toks"] if given["max_gen_toks"] < self.max_length else self.max_length // 2
        is_drawn = bool(given["do_sample"])
        sampling = Sampling(
            max_new_tokens=n_new,
            temperature=given["temperature"] if is_drawn else 0,
            top_k=given.get("top_k"),
            top_p=given.get("top_p"),
            min_p=given.get("min_p"),
            seed=number,
            stop=tuple(filter(None, given["until"])),
        )
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return ids[-(self.max_length - n_new) :], sampling

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model: number of parameters, dtype and hash of the weights."""
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "model_dtype": dtype_name(self._dtype),
            "model_sha": weights_hash(self._model),
        }

    def _fitted(self, context: Sequence[int], continuation: Sequence[int]) -> Pair:
        """Context and continuation, of which the context lost what does not fit at its beginning."""
        n_kept = self.max_length + 1 - len(continuation)
        if n_kept < 1:
            raise UserError(f"an answer of {len(continuation)} tokens is more than the {self.max_length} that are read")
        return tuple(context[-n_kept:]), tuple(continuation)

    def _runtime(self) -> AbstractContextManager[Runtime]:
        return start(self._config)


def _scored(unit: Unit, reader: OptionReader) -> Iterator[tuple[Pair, Score]]:
    """Each context and continuation of a unit with its score."""
    for question, scores in zip(unit, reader.scores(unit), strict=True):
        yield from zip(zip(question.contexts, question.options, strict=True), scores, strict=True)


def _row(context: Sequence[int], scored: Sequence[int]) -> Row:
    return Row(np.array([*context, *scored], np.int64), np.arange(len(context) + len(scored)) >= len(context))


def _stop_if_requested(runtime: Runtime) -> None:
    if runtime.stop_requested:
        raise KeyboardInterrupt
