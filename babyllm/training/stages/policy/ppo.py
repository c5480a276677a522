"""Proximal policy optimisation: what a run begins with.

init_from -> policy, reference; reward model -> critic -> Rollouts (answers, scores, PpoAdvantages) -> clipped losses
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from babyllm.data.row_config import share_of
from babyllm.errors import UserError
from babyllm.loading import model_directory
from babyllm.model.heads import transformer_of
from babyllm.model.interface import Model
from babyllm.objectives.policy.credit import Credit
from babyllm.objectives.policy.losses import policy_loss
from babyllm.rollouts.alarms import Alarms
from babyllm.rollouts.prompt_files import Prompts, read_prompts
from babyllm.rollouts.rewards.reward_sum import make_rewards
from babyllm.rollouts.rollout_stream import Answering, Rollouts
from babyllm.rollouts.sample_records import write_samples
from babyllm.runtime import Runtime
from babyllm.training.parallel import prepare
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import Opening, new_state, open_stage
from babyllm.training.stages.policy.critic import Critique, with_critic
from babyllm.training.stages.policy.grpo import plan_of, watched
from babyllm.training.stages.policy.held_out_reward import RESULTS, answers, held_out
from babyllm.training.stages.policy.ppo_advantages import PpoAdvantages
from babyllm.training.stages.policy.ppo_config import PpoConfig
from babyllm.training.stages.policy.reference_model import reference_of
from babyllm.training.starting_model import adapted, starting_model


def begin(config: PpoConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the critic, the prompts, the rewards and the plan do not fit each other.
    """
    config.plan.check()
    config.loss.check("loss.")
    opening = open_stage(config, config.data, before="babyllm sft")
    prompts = read_prompts(config.data, opening.template)
    if runtime.is_main:
        print(prompts)
    start = starting_model(config, opening.directory, opening.tokenizer, opening.template, opening.is_resumed)
    actor = adapted(config, start, opening.template, runtime)
    step = opening.directory if opening.is_resumed else None
    reward_model = config.reward.model or ""
    model = prepare(with_critic(actor, config.critic, opening.tokenizer, reward_model=reward_model, step=step), runtime)
    stream = _rollouts(config, model, opening, prompts, runtime)
    loss = policy_loss(
        config.loss,
        max_answer=config.data.max_new_tokens,
        temperature=config.rollout.temperature,
        critic=config.critic,
    )
    return Beginning(
        new_state(config, model, stream, runtime, start.source),
        plan_of(config, prompts),
        watched(loss, stream),
        held_out(config, prompts, stream, runtime),
        answers(prompts, stream, config.samples, runtime),
        opening.template.tokenizer,
        opening.template.source,
        opening.end_ids,
        is_measured_first=bool(prompts.held_out),
        results=RESULTS,
    )


def _rollouts(config: PpoConfig, model: Model, opening: Opening, prompts: Prompts, runtime: Runtime) -> Rollouts:
    """The stream of a policy with a critic."""
    policy, share = transformer_of(model), share_of(config.data, model.config, runtime)
    temperature, kl = config.rollout.temperature, config.loss.kl
    reference = None
    if kl.place != "none":
        _require_beginning(config)
        reference = reference_of(config, policy, runtime, temperature, share.micro_batch)
    critique = Critique(model, Credit(config.credit, kl, runtime.sum), share.micro_batch)
    decode = opening.template.tokenizer.decode
    return Rollouts(
        Answering(policy, decode, opening.end_ids, config.rollout, config.data.max_new_tokens, runtime),
        prompts.train,
        make_rewards(config.reward, config.reward.functions),
        PpoAdvantages(critique, reference, runtime),
        config.rollout,
        share,
        config.data.seq_len,
        masks_truncated=config.loss.mask_truncated,
        alarms=Alarms(config.alarms),
        record=partial(write_samples, Path(config.run_dir), config.rollout.samples),
    )


def _require_beginning(config: PpoConfig) -> None:
    """Refuse to resume without the model that the run began with."""
    try:
        model_directory(config.init_from)
    except UserError as e:
        raise UserError(f"--init_from: {e}; the policy is held near to the model that the run began with") from e
