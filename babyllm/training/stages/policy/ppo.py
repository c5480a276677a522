"""Proximal policy optimisation: what a run begins with.

init_from -> policy, reference; reward model -> critic -> Rollouts (answers, scores, PpoAdvantages) -> clipped losses
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from babyllm.data.row_config import share_of
from babyllm.model.heads import transformer_of
from babyllm.model.interface import Model
from babyllm.objectives.policy.credit import Credit
from babyllm.objectives.policy.losses import policy_loss
from babyllm.objectives.policy.ptx_loss import with_ptx_loss
from babyllm.parallel.refusals import refuse_shared_rows
from babyllm.parallel.twin import readable, reading
from babyllm.rollouts.prompt_files import Prompts
from babyllm.rollouts.ptx import with_ptx
from babyllm.rollouts.rollout_stream import Rollouts
from babyllm.runtime import Runtime
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import Opening, new_state, open_stage
from babyllm.training.stages.policy.critic import Critique, with_critic
from babyllm.training.stages.policy.held_out_reward import RESULTS, held_out
from babyllm.training.stages.policy.policy_stage import plan_of, prompts_of, rollouts_of, watched
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
    refuse_shared_rows(config.parallel, "PPO")
    opening = open_stage(config, config.data, before="babyllm sft")
    prompts = prompts_of(config, opening, runtime)
    start = starting_model(config, opening.directory, opening.tokenizer, opening.template, opening.is_resumed)
    step = opening.directory if opening.is_resumed else None
    reward_model = config.reward.model or ""
    critic = partial(with_critic, config.critic, opening.tokenizer, reward_model, step)
    model = adapted(config, start, opening.template, runtime, critic)
    stream = _rollouts(config, readable(model), opening, prompts, runtime)
    loss = policy_loss(
        config.loss,
        max_answer=config.data.max_new_tokens,
        temperature=config.rollout.temperature,
        critic=config.critic,
    )
    mixed = with_ptx(stream, config.ptx, Path(config.run_dir), opening.template, model.config, runtime)
    measure, show = held_out(config, prompts, stream, runtime)
    return Beginning(
        new_state(config, model, reading(mixed, model, writes=True), runtime, start.source),
        plan_of(config, prompts),
        with_ptx_loss(watched(loss, stream), config.ptx.weight),
        measure,
        show,
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
    reference = None if kl.place == "none" else reference_of(config, policy, runtime, temperature, share.micro_batch)
    critique = Critique(model, Credit(config.credit, kl, runtime.sum), share.micro_batch)
    advantages = PpoAdvantages(critique, reference, runtime)
    return rollouts_of(config, policy, opening, prompts, advantages, share, runtime)
