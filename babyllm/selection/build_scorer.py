"""The scorers of a configuration, with their models loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllm.loading import load_chat_model, model_directory
from babyllm.reward_model import load_reward_model
from babyllm.runtime import Runtime
from babyllm.selection.score_tables import FIELD
from babyllm.selection.scorers.answer_losses import AnswerLosses
from babyllm.selection.scorers.conversation_rewards import FunctionScores, JudgeScores, ModelRewards
from babyllm.selection.scorers.mean_hidden import MeanHidden
from babyllm.selection.scorers.own_answer_scores import OwnAnswerScores
from babyllm.selection.scorers.scored_batches import Scorer, Together
from babyllm.selection.scorers.text_statistics import TextStatistics
from babyllm.selection.select_chats import model_identity
from babyllm.selection.select_config import SelectConfig

TIMEOUT_S = 600.0


def build_scorer(config: SelectConfig, runtime: Runtime) -> tuple[Scorer | None, dict[str, Any]]:
    """The scorer that `config.scores` describes, and what identifies its models.

    Args:
        config: scorers and their models.
        runtime: device of the models.

    Raises:
        UserError: a model or file is missing or does not fit.
    """
    config.check()
    models: dict[str, Any] = {}
    chat = None
    if config.model:
        chat = load_chat_model(config.model)
        chat.require_template_tokens(config.model)
        chat.model.to(runtime.device)
        models["model"] = model_identity(model_directory(config.model))
    reward = None
    if config.reward:
        reward = load_reward_model(config.reward)
        reward.model.to(runtime.device)
        models["reward"] = model_identity(model_directory(config.reward))
    found: list[Scorer] = []
    for name in config.scores:
        if name.startswith(FIELD) or name == "importance":  # made after a pass over the files
            continue
        if name == "text":
            found.append(TextStatistics(chat.tokenizer if chat else None))
        elif name in ("ifd", "loss"):
            assert chat
            found.append(
                AnswerLosses(
                    chat.model, chat.template, has_direct=name == "ifd", answers=config.answers, runtime=runtime
                )
            )
        elif name == "embed":
            assert chat
            found.append(MeanHidden(chat.model, chat.template, config.embed, runtime))
        elif name == "reward":
            assert reward
            found.append(ModelRewards(reward))
        elif name == "necessity":
            assert reward and config.predictions
            found.append(OwnAnswerScores(Path(config.predictions), ModelRewards(reward, "necessity"), config.format))
        elif name == "judge":
            found.append(JudgeScores(config.judge, "judge"))
        else:
            found.append(FunctionScores(name, TIMEOUT_S))
    return (Together(found) if found else None), models
