"""What the stages share in which a model trains on its own answers: the stream, the plan, the alarm of clipping."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import nn

from babyllm.data.batch import Batch
from babyllm.data.row_config import Share
from babyllm.model.transformer import Transformer
from babyllm.objectives import Loss, LossTerms
from babyllm.rollouts.alarms import Alarms
from babyllm.rollouts.answering_prompts import Answering
from babyllm.rollouts.prompt_files import Prompts, read_prompts
from babyllm.rollouts.rewards.reward_sum import Rewards, make_rewards
from babyllm.rollouts.rollout_stream import Advantages, Rollouts
from babyllm.rollouts.sample_records import write_samples
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.data_sets import write_data_sets
from babyllm.training.stages.opening import Opening
from babyllm.training.stages.policy.policy_run_config import PolicyRunConfig

REPLIES = "judge"  # folder in the run directory


def prompts_of(config: PolicyRunConfig, opening: Opening, runtime: Runtime) -> Prompts:
    """The prompts of a run; the main rank prints how many there are and records it in the run directory.

    Raises:
        UserError: a file is missing, or no prompt is left to train on.
    """
    prompts = read_prompts(config.data, opening.template)
    if runtime.is_main:
        print(prompts)
        run_dir = Path(config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_data_sets(run_dir, [prompts.described([one for some in config.data.data_sets() for one in some])])
    return prompts


def rollouts_of(
    config: PolicyRunConfig,
    policy: Transformer,
    opening: Opening,
    prompts: Prompts,
    advantages: Advantages,
    share: Share,
    runtime: Runtime,
) -> Rollouts:
    """The stream of a policy's answers.

    Args:
        config: configuration of the stage.
        policy: policy, on its device.
        opening: template and end tokens of the answers.
        prompts: prompts of the run.
        advantages: function that makes the tensors of the loss.
        share: this rank's share of a rollout.
        runtime: runtime of the run.

    Raises:
        UserError: a reward is not known, the constraint cannot be used, or groups do not divide evenly over ranks.
    """
    tokenizer = opening.template.tokenizer
    return Rollouts(
        Answering(policy, tokenizer, opening.end_ids, config.rollout, config.data.max_new_tokens, runtime),
        prompts.train,
        rewards_of(config, config.reward.functions, runtime),
        advantages,
        config.rollout,
        share,
        config.data.seq_len,
        masks_truncated=config.loss.mask_truncated,
        alarms=Alarms(config.alarms),
        record=partial(write_samples, Path(config.run_dir), config.rollout.samples),
    )


def rewards_of(config: PolicyRunConfig, weights: Mapping[str, float], runtime: Runtime) -> Rewards:
    """The rewards of this rank's answers; a judge's replies are stored in the run directory.

    Args:
        config: configuration of the stage.
        weights: weights of the rewards by name.
        runtime: runtime of the run.

    Raises:
        UserError: a reward is not known, or its settings are missing.
    """
    options = config.reward.of_rank(runtime.world_size, Path(config.run_dir) / REPLIES)
    return make_rewards(options, weights, patience=config.reward.patience)


def plan_of(config: PolicyRunConfig, prompts: Prompts) -> Plan:
    """The plan with its number of steps: in an epoch each prompt is answered by one group.

    Raises:
        UserError: the phases do not fit the steps.
    """
    rows = len(prompts.train) * config.rollout.group * config.rollout.epochs
    return config.plan.with_steps(rows, config.data.global_batch)


def watched(loss: Loss, stream: Rollouts) -> Loss:
    """The same loss, which also lets the stream's alarms know what it clips."""

    def told(model: nn.Module, batch: Batch) -> LossTerms:
        terms = loss(model, batch)
        stream.watch_clipping(terms.metrics["clip/low"], terms.metrics["clip/high"])
        return terms

    return told
