"""Group-relative policy optimisation: what a run begins with.

init_from -> model, tokenizer, template -> prompts -> Rollouts (answers, rewards, advantages) -> policy loss
"""

from __future__ import annotations

from pathlib import Path

from babyllm.data.row_config import share_of
from babyllm.errors import UserError
from babyllm.model.heads import transformer_of
from babyllm.objectives.policy.losses import policy_loss
from babyllm.objectives.policy.ptx_loss import with_ptx_loss
from babyllm.parallel.refusals import refuse_shared_rows
from babyllm.parallel.twin import readable, reading
from babyllm.rollouts.ptx import with_ptx
from babyllm.runtime import Runtime
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.policy.grpo_advantages import GroupAdvantages
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.stages.policy.held_out_reward import RESULTS, held_out
from babyllm.training.stages.policy.policy_stage import plan_of, prompts_of, rollouts_of, watched
from babyllm.training.stages.policy.reference_model import reference_of
from babyllm.training.starting_model import adapted, starting_model


def begin(config: GrpoConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the prompts, the rewards and the plan do not fit each other.
    """
    config.plan.check()
    config.loss.check("loss.")
    refuse_shared_rows(config.parallel, "GRPO")
    if config.rollout.group < 2:
        raise UserError("--rollout.group=1: answers are compared with others to the same prompt; give at least 2")
    if config.loss.loss == "reinforce" and config.rollout.epochs > 1:
        raise UserError("--rollout.epochs: the loss reinforce is exact for one use of a rollout; give 1")
    opening = open_stage(config, config.data, before="babyllm sft")
    prompts = prompts_of(config, opening, runtime)
    start = starting_model(config, opening.directory, opening.tokenizer, opening.template, opening.is_resumed)
    model = adapted(config, start, opening.template, runtime)
    policy = transformer_of(readable(model))
    share = share_of(config.data, model.config, runtime)
    kl = config.loss.kl
    temperature = config.rollout.temperature
    reference = None if kl.place == "none" else reference_of(config, policy, runtime, temperature, share.micro_batch)
    advantages = GroupAdvantages(config.loss, config.scale, config.rollout.group, runtime, reference, kl.coefficient)
    stream = rollouts_of(config, policy, opening, prompts, advantages, share, runtime)
    mixed = with_ptx(stream, config.ptx, Path(config.run_dir), opening.template, model.config, runtime)
    state = new_state(config, model, reading(mixed, model, writes=True), runtime, start.source)
    loss = policy_loss(config.loss, max_answer=config.data.max_new_tokens, temperature=temperature)
    measure, show = held_out(config, prompts, stream, runtime)
    return Beginning(
        state,
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
