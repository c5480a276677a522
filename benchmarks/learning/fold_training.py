"""The folds of `reward_folds`: hidden states of the frozen layers, and the last layers trained on each."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from babyllm.chat.limits import MessageLimits, limited
from babyllm.chat.load import load_template
from babyllm.chat.messages import Conversation
from babyllm.chat.preferences import PreferenceFormat, PreferencePair, read_preference_partition
from babyllm.chat.reading import find_conversation_partitions
from babyllm.evaluate.statistics import mean_estimate, paired_difference
from babyllm.loading import load
from babyllm.model.transformer import Transformer
from babyllm.objectives.bradley_terry import bradley_terry

BATCH = 8
MOST = 512  # ids of a side; longer pairs are left out


class Tail(nn.Module):
    """The last layers of a transformer, its norm and a new head: hidden states and lengths -> scores."""

    def __init__(self, model: Transformer, n_layers: int) -> None:
        super().__init__()
        self.layers = copy.deepcopy(model.layers[-n_layers:])
        self.norm = copy.deepcopy(model.norm)
        self.score = nn.Linear(model.config.d_model, 1, bias=False)
        nn.init.normal_(self.score.weight, std=0.02)

    def forward(self, x: Tensor, lengths: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
        """(B, T, D) and (B,) -> (B,)."""
        cos, sin = (table[None, None, : x.shape[1]] for table in rotations)
        for block in self.layers:
            x = block(x, cos, sin, None)
        last = self.norm(x)[torch.arange(len(x)), lengths - 1]
        scores: Tensor = self.score(last).squeeze(-1)
        return scores


def measure(options: argparse.Namespace) -> None:
    """Read the pairs, then train and score each fold; the options are those of `reward_folds`."""
    torch.manual_seed(options.seed)
    began = time.perf_counter()
    model, tokenizer = load(options.model)
    template = load_template("chatml", tokenizer, Path(options.model))
    limits = MessageLimits(options.prompt_tokens, options.answer_tokens)
    sides, lengths, kept, n_read = [], [], [], 0
    for file in options.pairs:
        for pair in _pairs(file):
            n_read += 1
            answers = (pair.chosen, pair.rejected)
            whole = [limited(Conversation((*pair.prompt, *answer)), limits, tokenizer) for answer in answers]
            ids = [template.render(each.conversation.messages).ids for each in whole]
            if max(map(len, ids)) > min(MOST, model.config.max_seq_len) or ids[0].tolist() == ids[1].tolist():
                continue
            kept.append(file.stem)
            lengths.append([len(answer[-1].content) for answer in answers])
            sides += [torch.from_numpy(side.astype("int64")) for side in ids]
    print(f"{len(kept)} pairs of {n_read}, {sum(map(len, sides)):,} tokens", flush=True)
    states = _hidden(model, sides, options.layers)
    print(f"hidden states after {time.perf_counter() - began:.0f} s", flush=True)
    margins = _margins(model, states, options)
    longer = [0.5 if a == b else float(a > b) for a, b in lengths]
    for group in (None, *sorted(set(kept))):
        here = [i for i, name in enumerate(kept) if group in (None, name)]
        right, rule = [float(margins[i] > 0) for i in here], [longer[i] for i in here]
        result = {"pairs": group or "all", "n": len(here)}
        for label, estimate in (
            ("accuracy", mean_estimate(right)),
            ("longer_wins", mean_estimate(rule)),
            ("difference", paired_difference(right, rule)[0]),
        ):
            result |= {label: round(estimate.value, 4), f"{label}_err": round(estimate.error, 4)}
        print(json.dumps(result), flush=True)
    print(f"in {time.perf_counter() - began:.0f} s")


def _pairs(file: Path) -> Iterator[PreferencePair]:
    """The pairs of a file."""
    for partition in find_conversation_partitions([file], sys.maxsize):
        for found in read_preference_partition(partition, PreferenceFormat()):
            if isinstance(found, PreferencePair):
                yield found


@torch.no_grad()
def _hidden(model: Transformer, sides: list[Tensor], n_layers: int) -> list[Tensor]:
    """The (L, D) hidden states of each side before the last `n_layers` layers."""
    states: list[Tensor] = [torch.empty(0)] * len(sides)
    order = sorted(range(len(sides)), key=lambda i: len(sides[i]))
    for start in range(0, len(order), 2 * BATCH):
        mine = order[start : start + 2 * BATCH]
        tokens = nn.utils.rnn.pad_sequence([sides[i] for i in mine], batch_first=True)
        cos, sin = (table[None, None, : tokens.shape[1]] for table in model.rotations(tokens.shape[1], tokens.device))
        x = model.embed_tokens(tokens)
        for block in model.layers[:-n_layers]:
            x = block(x, cos, sin, None)
        for i, row in zip(mine, x, strict=True):
            states[i] = row[: len(sides[i])].clone()
    return states


def _margins(model: Transformer, states: list[Tensor], options: argparse.Namespace) -> list[float]:
    """The margin of each pair, by the model that was trained on the other folds."""
    rotations = model.rotations(max(map(len, states)), states[0].device)
    order = torch.randperm(len(states) // 2, generator=torch.Generator().manual_seed(options.seed)).tolist()
    margins = [0.0] * len(order)
    for fold in range(options.folds):
        held = order[fold :: options.folds]
        train = [i for i in order if i not in set(held)]
        tail = Tail(model, options.layers)
        n_steps = options.epochs * (len(train) // BATCH)
        optimizer = torch.optim.AdamW(tail.parameters(), lr=options.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, n_steps + 1, pct_start=0.1)
        losses = []
        for step in range(n_steps):
            at = step * BATCH % (len(train) - BATCH + 1)
            found = _of_pairs(tail, states, train[at : at + BATCH], rotations)
            loss = bradley_terry(found, torch.zeros_like(found)).mean()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(tail.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            for start in range(0, len(held), BATCH):
                mine = held[start : start + BATCH]
                for i, margin in zip(mine, _of_pairs(tail, states, mine, rotations).tolist(), strict=True):
                    margins[i] = margin
        right = sum(margins[i] > 0 for i in held) / len(held)
        print(f"fold {fold}: train loss {losses[0]:.3f} to {sum(losses[-20:]) / 20:.3f}, right {right:.3f}", flush=True)
    return margins


def _of_pairs(tail: Tail, states: list[Tensor], pairs: list[int], rotations: tuple[Tensor, Tensor]) -> Tensor:
    """(n,) the score of the chosen answer less that of the rejected one."""
    sides = [states[2 * i + j] for i in pairs for j in (0, 1)]
    lengths = torch.tensor([len(side) for side in sides])
    scores = tail(nn.utils.rnn.pad_sequence(sides, batch_first=True), lengths, rotations)
    margins: Tensor = scores[::2] - scores[1::2]
    return margins
