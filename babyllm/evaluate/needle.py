"""A needle in the prompt: a fact is placed at some depth of a long text, and the model is asked for it.

    filler sentences + fact at a depth + cue -> prompt of a given length -> greedy answer: does it hold the value?
                                                                         -> nats of the value and of 9 others

A fact is the pass number of an invented person, which only the prompt holds. The log-probabilities measure
base models too: guessing finds the value among ten in a tenth of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from babyllm.chat.load import ChatTemplate
from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics.matching import contains
from babyllm.evaluate.needle_config import NeedleConfig
from babyllm.evaluate.needle_prompts import N_VALUES, Needle, NeedlePrompts
from babyllm.evaluate.report import Evaluation
from babyllm.evaluate.statistics import Estimate, mean_estimate, verdict
from babyllm.evaluate.tasks.option_nats import OptionReader, units
from babyllm.evaluate.tasks.prompts import Question
from babyllm.generation import Sampling, answers
from babyllm.model.transformer import Transformer
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.tokenizer import Tokenizer

_ANSWER_TOKENS = 24
_MOST_CHARACTERS = 1 << 22  # that are read of a text


class NeedleResult(NamedTuple):
    """The results of the prompts of one length and depth.

    Attributes:
        found: scores of the prompts: 1 if the greedy answer holds the value, else 0.
        preferred: scores of the prompts: 1 if the value is more probable than the nine others, else 0.
    """

    found: list[float]
    preferred: list[float]


def needle_results(
    model: Transformer,
    tokenizer: Tokenizer,
    runtime: Runtime,
    config: NeedleConfig,
    *,
    text: str | None = None,
    template: ChatTemplate | None = None,
) -> dict[tuple[int, float], NeedleResult]:
    """The results of a needle test by length and depth; ranks share the work, and every rank must call it.

    After a stop signal the results are incomplete: discard them.

    Args:
        model: a model in any mode; it runs as in evaluation mode.
        tokenizer: tokenizer of the model; with a template, that of the template.
        runtime: device, dtype and ranks.
        config: the prompts.
        text: text that surrounds the fact; None takes the sentences of the language.
        template: chat template that renders the prompt as a question; None has the model continue the text.

    Raises:
        UserError: a length does not fit into the model's context, or has no room for the fact.
    """
    prompts = NeedlePrompts(tokenizer, config, text, template)
    cells = list(product(needle_lengths(config, model.config.max_seq_len), config.depths))
    results = np.zeros((len(cells), 2, config.repeats))
    for i, (length, depth) in enumerate(cells):
        if i % runtime.world_size == runtime.rank and not runtime.stop_requested:
            needles = [prompts.needle(length, depth, number) for number in range(config.repeats)]
            results[i, 0] = _found(model, tokenizer, needles, template, runtime)
            results[i, 1] = _preferred(model, needles, runtime)
    shared = np.array(runtime.sum(results.flatten().tolist())).reshape(results.shape)
    return {cell: NeedleResult(*row.tolist()) for cell, row in zip(cells, shared, strict=True)}


def needle_lengths(config: NeedleConfig, context: int) -> list[int]:
    """The lengths of a test, in tokens.

    Raises:
        UserError: one leaves no room for an answer in the model's context.
    """
    longest = context - _ANSWER_TOKENS
    for length in config.lengths:
        if length > longest:
            raise UserError(
                f"needle.lengths={length}: leaves no room for an answer in the context of {context:,} tokens; "
                f"at most {longest:,} fit"
            )
    return config.lengths or [context // 4, context // 2, longest]


def _found(
    model: Transformer, tokenizer: Tokenizer, needles: Sequence[Needle], template: ChatTemplate | None, runtime: Runtime
) -> list[float]:
    sampling = Sampling(temperature=0, max_new_tokens=_ANSWER_TOKENS, stop=() if template else ("\n",))
    requests = [(needle.ids, sampling) for needle in needles]
    with reads_in(runtime.device, runtime.reading_dtype):
        said = answers(model, tokenizer, requests, template.end_ids if template else (tokenizer.eos_id,))
    return [contains(answer.text, needle.values[:1]) for answer, needle in zip(said, needles, strict=True)]


def _preferred(model: Transformer, needles: Sequence[Needle], runtime: Runtime) -> list[float]:
    asked = units([Question(str(i), (needle.ids,) * N_VALUES, needle.options) for i, needle in enumerate(needles)])
    reader, nats = OptionReader(model, asked, runtime), dict[str, list[float]]()
    for unit in asked:
        nats |= {question.key: found for question, found in zip(unit, reader.nats(unit), strict=True)}
    return [float(np.argmin(nats[str(i)]) == 0) for i in range(len(needles))]


def needle_evaluation(results: dict[tuple[int, float], NeedleResult], facts: Sequence[Fact] = ()) -> Evaluation:
    """Two tables of a needle test, depth by length, and both means with their verdicts.

    Args:
        results: results by length and depth, as `needle_results` returns them.
        facts: description of what was evaluated.
    """
    lengths = sorted({length for length, _ in results})
    depths = sorted({depth for _, depth in results})
    tables, values, summary = [], {}, list(facts)
    titles = {
        "found": "share of greedy answers that hold the number, by depth and number of tokens",
        "preferred": f"share of numbers that are more probable than {N_VALUES - 1} others; chance is {1 / N_VALUES:g}",
    }
    for name, title in titles.items():
        of_cell = {cell: getattr(result, name) for cell, result in results.items()}
        rows: list[list[Cell]] = [
            [f"{depth:.0%}", *(float(np.mean(of_cell[length, depth])) for length in lengths)] for depth in depths
        ]
        columns = ["depth", *(f"{length:,} tokens" for length in lengths)]
        tables.append(Table(title, columns, rows))
        mean = mean_estimate([value for cell in of_cell.values() for value in cell])
        summary.append((name, _shown(mean, 0.0 if name == "found" else 1 / N_VALUES)))
        cells = [{"length": length, "depth": depth, "scores": scores} for (length, depth), scores in of_cell.items()]
        values[name] = {"value": mean.value, "error": mean.error, "n": mean.n, "cells": cells}
    return Evaluation(Report("Needle in the prompt", summary, tables), values)


def _shown(mean: Estimate, chance: float) -> str:
    word = f", {verdict(mean, chance)}" if chance else ""
    return f"{mean.value:.3f} ± {mean.error:.3f} of {mean.n} prompts{word}"


def needle_table(
    model: Transformer,
    tokenizer: Tokenizer,
    runtime: Runtime,
    config: NeedleConfig,
    *,
    template: ChatTemplate | None = None,
    facts: Sequence[Fact] = (),
) -> Evaluation:
    """The evaluation of a model by a needle test; arguments as for `needle_results` and `needle_evaluation`.

    Raises:
        UserError: the text cannot be read, or a length does not fit.
    """
    text = None
    if config.text is not None:
        try:
            with open(config.text, encoding="utf-8") as file:
                text = file.read(_MOST_CHARACTERS)
        except OSError as error:
            raise UserError(f"needle.text: {config.text} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError:
            raise UserError(f"needle.text: {config.text} is not UTF-8; convert it") from None
    return needle_evaluation(needle_results(model, tokenizer, runtime, config, text=text, template=template), facts)
