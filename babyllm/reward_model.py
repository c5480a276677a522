"""A reward model or classifier read from a directory, and its scores of conversations and texts.

run, step or adapter directory -> load_reward_model -> RewardModel -> conversations -> scores

It has a tokenizer and a template of its own, which may differ from those of the model whose answers it scores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from babyllm.chat.load import ChatTemplate, Supervise, load_template
from babyllm.chat.messages import Message, Unusable
from babyllm.data.labelling.label_data import ids_of_texts
from babyllm.errors import UserError
from babyllm.evaluate.scoring import batches
from babyllm.files import read_sealed_json
from babyllm.integrity import check_model
from babyllm.interop.huggingface import load_with_head
from babyllm.interop.peft import fill_adapter, read_adapter
from babyllm.loading import is_adapter, load_base, model_directory, tokenizer_directory
from babyllm.model.adapt.lora import add_lora, merge_lora
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.heads import SCORE, WithHead
from babyllm.run_directory import CONFIG
from babyllm.tokenizer import Tokenizer

BATCH_TOKENS = 4096
LABELS = "labels.json"
"""The file in the run directory of a classifier with the names of its labels, which its adapters lack."""


SCALES = "scales.json"
"""The file in the run directory of a reward model with mean and spread of its scores on a reference set, by step."""


@dataclass(frozen=True)
class RewardModel:
    """A reward model that is read only.

    Attributes:
        model: transformer with a head, in evaluation mode.
        tokenizer: tokenizer of the model.
        template: chat template that renders conversations for it.
        mean: mean of the head's outputs on the reference set, which scores are relative to.
        std: their standard deviation.
    """

    model: WithHead
    tokenizer: Tokenizer
    template: ChatTemplate
    mean: float = 0.0
    std: float = 1.0
    _supervise: Supervise = field(default_factory=lambda: Supervise("last"))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.score.weight.device

    def ids(self, messages: Sequence[Message]) -> list[int] | None:
        """The ids of a conversation up to the end token of its last answer.

        Returns:
            None if the context is too short, the template refuses the messages, or they do not end with an answer.
        """
        try:
            rendered = self.template.render(messages, self._supervise)
        except Unusable:
            return None
        found = rendered.turns.nonzero()[0]
        if not len(found):
            return None
        ids: list[int] = rendered.ids[: found[-1] + 1].tolist()
        return ids if len(ids) <= self.model.config.max_seq_len else None

    def scores(
        self, conversations: Sequence[Sequence[Message]], batch_tokens: int = BATCH_TOKENS
    ) -> list[float | None]:
        """The score of each conversation's last answer, in its order; None where `ids` is.

        With a reference set (`reference_set` of `train_reward.py`), its answers have scores of mean 0 and spread 1.

        Args:
            conversations: conversations, each ending with an answer.
            batch_tokens: largest number of tokens of a forward pass, including padding.
        """
        scores = self.values([self.ids(messages) for messages in conversations], batch_tokens)
        return [None if score is None else (float(score) - self.mean) / self.std for score in scores]

    def label_probabilities(
        self, texts: Sequence[str | tuple[str, str]], batch_tokens: int = BATCH_TOKENS
    ) -> list[dict[str, float]]:
        """The probability of each label, by its name, of each text or pair of texts.

        Args:
            texts: texts; what is longer than the context is cut at its end, as in training.
            batch_tokens: largest number of tokens of a forward pass, including padding.

        Raises:
            UserError: the model has one output, so it is a reward model.
        """
        if len(self.model.labels) < 2:
            raise UserError("a reward model has no labels; score conversations with it, or load a classifier")
        parts = [(text,) if isinstance(text, str) else text for text in texts]
        most = self.model.config.max_seq_len
        values = self.values([ids_of_texts(part, self.tokenizer, most) for part in parts], batch_tokens)
        found = [value.double().softmax(0).tolist() for value in values if value is not None]
        return [dict(zip(self.model.labels, row, strict=True)) for row in found]

    @torch.no_grad()
    def values(self, rows: Sequence[Sequence[int] | None], batch_tokens: int = BATCH_TOKENS) -> list[Tensor | None]:
        """The head's outputs at the last id of each row: () for one label, else (labels,); None for None."""
        known = [i for i, row in enumerate(rows) if row is not None]
        given = [torch.tensor(rows[i]) for i in known]
        found: list[Tensor | None] = [None] * len(rows)
        for batch in batches([len(row) for row in given], batch_tokens):
            ids = torch.nn.utils.rnn.pad_sequence([given[i] for i in batch], batch_first=True)
            lengths = torch.tensor([len(given[i]) for i in batch])
            values = self.model(ids.to(self.device), lengths=lengths.to(self.device)).cpu()
            for i, value in zip(batch, values, strict=True):
                found[known[i]] = value
        return found


def load_reward_model(path: str | Path) -> RewardModel:
    """The reward model or classifier of a run, step, adapter or Hugging Face directory, with adapters merged.

    Raises:
        UserError: the directory holds no model with a head, or a file is missing, damaged or does not fit.
    """
    directory = model_directory(path)
    files = tokenizer_directory(directory)
    tokenizer = Tokenizer.load(files)
    with torch.inference_mode(False):
        model = _adapted(directory, tokenizer) if is_adapter(directory) else load_with_head(directory)
    return RewardModel(model.eval(), tokenizer, load_template(None, tokenizer, files), *scale_of(directory))


def stored_scales(file: Path) -> dict[str, dict[str, float]]:
    """The means and spreads in a file of scales, by step; empty without one.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return dict(read_sealed_json(file))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{file}: is damaged; remove it to have scores as the head computes them") from e


def scale_of(step: Path) -> tuple[float, float]:
    """The mean and the spread that the scores of a step are relative to; 0 and 1 without a reference set.

    Raises:
        UserError: the file is damaged, or the scores of this step were not measured.
    """
    file = step.parent / SCALES
    scales = stored_scales(file)
    if scales and step.name not in scales:
        raise UserError(
            f"{step}: its scores were not measured on the reference set; choose one of {', '.join(sorted(scales))}, or "
            f"remove {file} to have scores as the head computes them"
        )
    found = scales.get(step.name, {"mean": 0.0, "std": 1.0})
    return found["mean"], found["std"] or 1.0


def _adapted(directory: Path, tokenizer: Tokenizer) -> WithHead:
    """The base of an adapter with a head, with the adapter merged."""
    check_model(directory)
    adapter = read_adapter(directory)
    base = load_base(directory, tokenizer)
    add_lora(base, adapter.config)
    train_token_rows(base, {name: ids for name, ids in adapter.tokens.items() if name in matrices_of(base, ids)})
    head = next((tensor for name, tensor in adapter.tensors.items() if name == f"{SCORE}.weight"), None)
    model = WithHead(base, _labels(directory, 1 if head is None else len(head)))
    try:
        fill_adapter(model, adapter, directory)
    except UserError as e:
        raise UserError(f"{directory}: is not the adapter of a reward model ({e})") from e
    merge_lora(model.model)
    if len(model.labels) > 1:  # a classifier's texts are cut where its training cut them
        base.config = replace(base.config, max_seq_len=min(base.config.max_seq_len, _trained_length(directory)))
    return model


def _trained_length(directory: Path) -> int:
    """The most tokens that an adapter was trained to read, by the configuration of its run; else no bound."""
    file = directory.parent / CONFIG
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    data = settings.get("data") if isinstance(settings, dict) else None
    length = data.get("seq_len") if isinstance(data, dict) else None
    return length if isinstance(length, int) else sys.maxsize


def _labels(directory: Path, n: int) -> list[str]:
    """The names of the `n` outputs of an adapter's head."""
    file = directory.parent / LABELS
    stored = json.loads(file.read_text(encoding="utf-8")) if n > 1 and file.is_file() else []
    return stored if len(stored) == n else ["reward"] if n == 1 else [f"LABEL_{i}" for i in range(n)]
