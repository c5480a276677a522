"""How the scores of a reward model lie on a reference set, measured at each evaluation and kept in the run directory.

conversations -> scores, shared among ranks -> mean, standard deviation -> scales.json, by step -> `load_reward_model`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import Conversation, Message
from babyllm.chat.reading import read_conversations
from babyllm.errors import UserError
from babyllm.files import write_sealed_json
from babyllm.model.heads import WithHead
from babyllm.reward_model import SCALES, RewardModel, stored_scales
from babyllm.run_directory import step_name
from babyllm.runtime import Runtime
from babyllm.training.run import Measure
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.state import TrainState

RESULTS = ("all/reference/mean", "all/reference/std")


def reference_set(config: RewardConfig) -> list[Sequence[Message]]:
    """The conversations of the reference set; none without one.

    Raises:
        UserError: the set cannot be read.
    """
    if config.reference_set is None:
        return []
    path = Path(config.reference_set)
    if not path.exists():
        raise UserError(f"--reference_set={path}: does not exist; give a file or folder of conversations")
    found = read_conversations(path, config.data.format)
    return [each.messages for each in found if isinstance(each, Conversation)]


def with_scale(
    measure: Measure, talks: Sequence[Sequence[Message]], config: RewardConfig, template: ChatTemplate, runtime: Runtime
) -> Measure:
    """The measurement with the mean and the standard deviation of the scores on the reference set.

    Args:
        measure: measurement of the run; returned as it is without a reference set.
        talks: conversations of `reference_set`.
        config: configuration of the stage.
        template: template of the model.
        runtime: runtime of the run; every rank scores its share.

    Raises:
        UserError: when measured, fewer than two answers can be read by the model.
    """
    if config.reference_set is None:
        return measure
    mine = talks[runtime.rank :: runtime.world_size]

    def measured(state: TrainState) -> dict[str, float]:
        assert isinstance(state.model, WithHead)
        was_training = state.model.training
        state.model.eval()
        with runtime.autocast():
            scores = RewardModel(state.model, template.tokenizer, template).scores(mine)
        state.model.train(was_training)
        known = [score for score in scores if score is not None]
        n, total = runtime.sum([float(len(known)), sum(known)])
        if n < 2:
            raise UserError(
                f"--reference_set={config.reference_set}: {int(n)} conversations end with an answer that the model can "
                "read; give at least two"
            )
        mean = total / n
        std = (runtime.sum([sum((score - mean) ** 2 for score in known)])[0] / n) ** 0.5
        if runtime.is_main:
            file = Path(config.run_dir) / SCALES
            write_sealed_json(file, {**stored_scales(file), step_name(state.step): {"mean": mean, "std": std}})
        return measure(state) | dict(zip(RESULTS, (mean, std), strict=True))

    return measured
