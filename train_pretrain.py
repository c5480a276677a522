"""Pretrain a language model: `python train_pretrain.py [--section.key=value ...]`, a process per GPU or core.

With no arguments it prepares the sample corpus and trains a small model on it.
"""

from __future__ import annotations

import sys

from babyllm.config import parse
from babyllm.console import lasting_output
from babyllm.data.token_data import open_pretraining_data
from babyllm.objectives.lm import language_model
from babyllm.runtime import launch, start, user_errors
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.pretraining import PretrainConfig, held_out, new_state, resolved, samples
from data.sample import prepare_sample


def pretrain(config: PretrainConfig) -> None:
    """Prepare the data, begin or resume the run, train: one process of it."""
    with lasting_output(), start(config.runtime) as runtime:
        with runtime.main_first():
            prepare_sample(config.data.path)
        data = open_pretraining_data(config.data, config.model.vocab_size, runtime)
        state, plan = new_state(config, data, runtime)
        with open_run(config, state, data.tokenizer, plan) as run:
            every = [
                run.logging(config.log_every, config.data.longest_seq_len),
                run.saving(config.save_every),
                run.evaluation(config.eval_every, held_out(config, data), samples(config, data.tokenizer)),
            ]
            train(state, language_model, plan, every, run.watch)


def main() -> None:
    """Read the configuration, then work in as many processes as it says."""
    config = parse(PretrainConfig, sys.argv[1:], prog="train_pretrain.py", description=__doc__ or "", resolve=resolved)
    launch(pretrain, config)


if __name__ == "__main__":
    with user_errors():
        main()
