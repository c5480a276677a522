"""Teach a model to converse: `python train_sft.py [--section.key=value ...]`, a process per GPU or core.

With no arguments it teaches the model of `runs/pretrain` to judge and write shop reviews, from the sample set.
"""

from __future__ import annotations

import sys

from babyllm.config import parse
from babyllm.console import lasting_output
from babyllm.objectives.conversation import conversation_loss
from babyllm.runtime import launch, start, user_errors
from babyllm.training.beginning import take
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.stages.fine_tuning import FineTuneConfig, answers, held_out, new_run, resolved
from data.sample_sft import prepare_sft_sample


def fine_tune(config: FineTuneConfig) -> None:
    """Prepare the conversations, begin or resume the run, train, measure before and after: one process of it."""
    with lasting_output(), start(config.runtime) as runtime, take(config, runtime):
        with runtime.main_first():
            prepare_sft_sample(config.data.path or "")
        tuning = new_run(config, runtime)
        state, data = tuning.state, tuning.data
        loss = conversation_loss(config.normalise, data.tasks, data.is_packed)
        template = tuning.template
        chat = (template.source, template.end_ids)
        with open_run(config, state, template.tokenizer, tuning.plan, *chat, is_taken=True) as run:
            evaluation = run.evaluation(config.eval_every, held_out(config, tuning), answers(config, tuning))
            if state.step == 0:
                with runtime.patience():
                    evaluation.run(state)
            every = [
                run.logging(config.log_every, config.data.longest_seq_len),
                run.saving(config.save_every),
                evaluation,
            ]
            train(state, loss, tuning.plan, every, run.watch)


def main() -> None:
    """Read the configuration, then work in as many processes as it says."""
    config = parse(FineTuneConfig, sys.argv[1:], prog="train_sft.py", description=__doc__ or "", resolve=resolved)
    launch(fine_tune, config)


if __name__ == "__main__":
    with user_errors():
        main()
