"""Policy losses, advantages and critics against formulas of the papers in NumPy, and against trl."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from model_fixtures import decisive
from numpy.typing import NDArray
from torch import Tensor, nn

from babyllm.data.batch import Batch
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.interop.weights import hf_name
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.heads import WithHead
from babyllm.objectives import LossTerms
from babyllm.objectives.policy.advantages import gae, group_advantages, leave_one_out, whiten
from babyllm.objectives.policy.kl import adapted_coefficient, k1, k2, k3
from babyllm.objectives.policy.losses import Answers, clipped, policy_loss, token_ratio, weighted
from babyllm.objectives.policy.policy_options import KlConfig, LossName, PolicyOptions, ValueOptions
from babyllm.objectives.policy.value import explained_variance, value_loss

SHAPE = ModelConfig(vocab_size=12, n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, d_ff=32, max_seq_len=16)
NAMES: tuple[LossName, ...] = get_args(LossName)
PROMPT, MOST = 3, 6
LENGTHS = (6, 1, 4, 3, 6, 2, 5, 3)


@pytest.fixture
def answers() -> dict[str, Tensor]:
    """Eight answers of one to six tokens, drawn by a policy near to the present one."""
    torch.manual_seed(0)
    whole = torch.randint(12, (8, PROMPT + MOST))
    targets = whole[:, 1:].clone()
    targets[:, : PROMPT - 1] = IGNORE
    for row, length in enumerate(LENGTHS):
        targets[row, PROMPT - 1 + length :] = IGNORE
    model = decisive(SHAPE, 1)
    with torch.no_grad():
        now = -model(whole[:, :-1], targets, temperature=0.8)
    mask = targets != IGNORE
    return {
        "tokens": whole[:, :-1],
        "targets": targets,
        "old": now + 0.3 * torch.randn(now.shape) * mask,
        "reference": now + 0.5 * torch.randn(now.shape) * mask,
        "advantages": torch.randn(8, 1),
        "values": torch.randn(now.shape),
        "returns": torch.randn(now.shape),
        "truncated": torch.tensor([[length == MOST] for length in LENGTHS]),
    }


def units(targets: Tensor) -> dict[str, int]:
    """The number of tokens, and of answers with any."""
    mask = targets != IGNORE
    return {"token": int(mask.sum()), "sequence": int(mask.any(1).sum())}


def gradients(model: nn.Module, terms: LossTerms, totals: dict[str, int]) -> dict[str, Tensor]:
    """The gradient of the mean loss by parameters."""
    value = torch.stack([terms.sums[unit] / totals[unit] for unit in terms.sums]).sum()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("has_critic", [False, True])
def test_any_micro_batches_have_the_same_gradient(answers: dict[str, Tensor], name: LossName, has_critic: bool) -> None:
    """Split into rows of any number, sums over the units of the whole batch add up to one gradient."""
    torch.manual_seed(0)
    model = WithHead(decisive(SHAPE, 1), ["value"], has_output=True)
    critic = ValueOptions() if has_critic else None
    options = PolicyOptions(name, 0.1, 0.2, 3.0, KlConfig("loss"), entropy=0.01)
    loss = policy_loss(options, max_answer=MOST, temperature=0.8, critic=critic)
    totals, found = units(answers["targets"]), []
    for split in ([8], [4, 4], [1] * 8, [3, 5]):
        total: dict[str, Tensor] = {}
        parts = zip(*(torch.split(x, split) for x in answers.values()), strict=True)
        for tensors in (dict(zip(answers, part, strict=True)) for part in parts):
            terms = loss(model, Batch(tensors, units(tensors["targets"])))
            for parameter, gradient in gradients(model, terms, totals).items():
                total[parameter] = total.get(parameter, torch.zeros(())) + gradient
        found.append(total)
    assert ("score.weight" in found[0]) == has_critic
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def test_truncated_answers_are_masked(answers: dict[str, Tensor]) -> None:
    """On request they have no part in the loss, as if they were not there."""
    model, kept = decisive(SHAPE, 1), ~answers["truncated"].squeeze(1)
    loss = policy_loss(PolicyOptions("grpo", mask_truncated=True), max_answer=MOST)
    found = []
    for tensors in (answers, {name: x[kept] for name, x in answers.items()}):
        totals = units(tensors["targets"].masked_fill(tensors["truncated"], IGNORE))
        terms = loss(model, Batch(tensors, totals))
        found.append((gradients(model, terms, totals), {name: float(s / n) for name, (s, n) in terms.metrics.items()}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1])
    assert set(found[0][1]) == {"loss", "ratio", "clip/low", "clip/high", "entropy"}


def test_an_answer_without_tokens_counts_for_nothing(answers: dict[str, Tensor]) -> None:
    """A row without targets leaves every loss and its gradient finite and as they were."""
    model = decisive(SHAPE, 1)
    empty = {**answers, "targets": answers["targets"].clone()}
    empty["targets"][1] = IGNORE
    fewer = {name: torch.cat([x[:1], x[2:]]) for name, x in answers.items()}
    for name in NAMES:
        loss, found = policy_loss(PolicyOptions(name, kl=KlConfig("loss", of="answer")), max_answer=MOST), []
        for tensors in (empty, fewer):
            totals = units(tensors["targets"])
            found.append(gradients(model, loss(model, Batch(tensors, totals)), totals))
        torch.testing.assert_close(found[0], found[1])


def drawn() -> Answers:
    """Tokens whose ratios lie on all sides of the clips, in float64."""
    ratios = torch.tensor([[0.3, 0.79, 0.85, 1.0, 1.15, 1.25, 2.0, 5.0]] * 2).double()
    advantages = torch.tensor([[1.5], [-0.5]]).double().expand(2, 8)
    return Answers(ratios.log().requires_grad_(), torch.zeros(2, 8).double(), advantages, torch.ones(2, 8).bool())


def test_clipped_losses_are_those_of_the_papers() -> None:
    """Schulman et al. 2017, equation 7, with clips apart; Ye et al. 2020, equation 5, for negative advantages."""
    given = drawn()
    ratio, advantages = token_ratio(given).detach().numpy(), given.advantages.numpy()
    surrogate = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.1) * advantages)
    dual = np.where(advantages < 0, np.maximum(surrogate, 3 * advantages), surrogate)
    for limit, expected in ((0.0, surrogate), (3.0, dual)):
        found = clipped(token_ratio(given), given, PolicyOptions("ppo", 0.2, 0.1, limit))
        np.testing.assert_allclose(found.detach().numpy(), -expected, rtol=1e-12)
    assert (dual != surrogate).any()


def test_a_capped_weight_leaves_every_token_its_gradient() -> None:
    """The gradient of cispo is a token's ratio, at most 1 + clip_high, times its advantage."""
    given = drawn()
    weighted(token_ratio(given), given, PolicyOptions("cispo", clip_high=0.5)).sum().backward()  # type: ignore[no-untyped-call]
    ratio = token_ratio(given).detach()
    assert given.logp.grad is not None
    torch.testing.assert_close(given.logp.grad, -ratio.clamp(max=1.5) * given.advantages)


def test_value_losses_are_clipped() -> None:
    """Half the larger of the squared errors of the value and of the value moved at most `clip` from the old one."""
    rng = np.random.default_rng(0)
    values, old, returns = rng.normal(size=(3, 4, 5))
    near = old + np.clip(values - old, -0.2, 0.2)
    expected = {0.2: np.maximum((values - returns) ** 2, (near - returns) ** 2) / 2, 0.0: (values - returns) ** 2 / 2}
    for clip, wanted in expected.items():
        found = value_loss(torch.from_numpy(values), torch.from_numpy(old), torch.from_numpy(returns), clip)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


def reference_gae(
    rewards: NDArray[Any], values: NDArray[Any], after: float, gamma: float, lam: float
) -> NDArray[np.float64]:
    """Schulman et al. 2016, equation 16, as the sum that it is, for one answer of n tokens."""
    following = [*values[1:], after]
    errors = [r + gamma * then - now for r, then, now in zip(rewards, following, values, strict=True)]
    return np.array([sum((gamma * lam) ** k * error for k, error in enumerate(errors[t:])) for t in range(len(errors))])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_estimates_are_the_sum_of_the_paper(gamma: float, lam: float) -> None:
    """A finished answer earns nothing after its end; one that was cut off, the value of the state it has reached."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(3, 7)), rng.normal(size=(3, 8))
    spans, is_truncated = [(2, 7), (1, 4), (3, 6)], [True, False, True]
    mask = np.zeros((3, 7), bool)
    for row, (first, end) in enumerate(spans):
        mask[row, first:end] = True
    given = torch.from_numpy(rewards), torch.from_numpy(values), torch.from_numpy(mask), torch.tensor(is_truncated)
    advantages, returns = gae(*given, gamma, lam)
    for row, (first, end) in enumerate(spans):
        after = values[row, end] if is_truncated[row] else 0.0
        expected = reference_gae(rewards[row, first:end], values[row, first:end], after, gamma, lam)
        np.testing.assert_allclose(advantages[row, first:end], expected, rtol=1e-10)
        np.testing.assert_allclose(returns[row, first:end], expected + values[row, first:end], rtol=1e-10)
    assert not advantages[~torch.from_numpy(mask)].any() and not returns[~torch.from_numpy(mask)].any()


def of_two_ranks(call: Callable[[int, Callable[[list[float]], list[float]]], Any]) -> list[Any]:
    """The results of a function on two ranks whose sums are those of both, found by calling it until all are known."""
    known: list[list[float]] = []
    while True:
        said: list[list[list[float]]] = [[], []]

        def total(numbers: list[float], mine: list[list[float]]) -> list[float]:
            mine.append(numbers)
            return known[len(mine) - 1] if len(mine) <= len(known) else numbers

        results = [call(rank, partial(total, mine=said[rank])) for rank in range(2)]
        if len(known) == len(said[0]):
            return results
        first, second = (numbers[len(known)] for numbers in said)
        known.append([a + b for a, b in zip(first, second, strict=True)])


def test_advantages_of_groups() -> None:
    """Centred in each group; scaled by the group's or the whole batch's standard deviation with n - 1, plus 1e-4."""
    rewards = torch.tensor([1.0, 0, 0, 1, 5, 7, 6, 6, 2, 2, 2, 2])
    rows = rewards.numpy().reshape(3, 4)
    centred = rows - rows.mean(1, keepdims=True)
    by_group = centred / (rows.std(1, ddof=1, keepdims=True) + 1e-4)
    by_batch = centred / (rows.std(ddof=1) + 1e-4)
    for scale, expected in (("none", centred), ("group", by_group), ("batch", by_batch)):
        found = group_advantages(rewards, 4, scale)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected.flatten(), rtol=1e-6, atol=1e-7)
        assert not found[8:].any()
    parts = [rewards[:4], rewards[4:]]
    halves = of_two_ranks(lambda rank, total: group_advantages(parts[rank], 4, "batch", total))
    np.testing.assert_allclose(torch.cat(halves), by_batch.flatten(), rtol=1e-6, atol=1e-7)
    others = [[np.delete(row, i).mean() for i in range(4)] for row in rows]
    np.testing.assert_allclose(leave_one_out(rewards, 4), (rows - others).flatten(), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(rewards, 1)


def test_an_answer_without_a_reward_has_no_advantage() -> None:
    """NaN is left out of its group's mean and spread, and equal rewards give exactly 0."""
    rewards = torch.tensor([1.0, torch.nan, 3, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(group_advantages(rewards, 3, "none"), [-1, 0, 1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(leave_one_out(rewards, 3), [-2, 0, 2, 0, 0, 0], atol=1e-7)
    assert group_advantages(rewards, 3, "group")[3:].tolist() == [0, 0, 0]


def test_whitening_and_explained_variance_are_of_all_ranks() -> None:
    """Mean 0 and variance 1 over the masked places of both ranks; the share of returns explained, likewise."""
    torch.manual_seed(0)
    x, y, mask = torch.randn(4, 5) * 3 + 2, torch.randn(4, 5), torch.rand(4, 5) < 0.7
    white = torch.cat(of_two_ranks(lambda r, total: whiten(x[2 * r : 2 * r + 2], mask[2 * r : 2 * r + 2], total)))
    torch.testing.assert_close(white, whiten(x, mask))
    chosen = x[mask].numpy()
    np.testing.assert_allclose(white[mask], (chosen - chosen.mean()) / chosen.std(ddof=1), rtol=1e-5)
    assert not white[~mask].any()
    assert whiten(x, mask, keeps_mean=True)[mask].mean().item() == pytest.approx(chosen.mean(), rel=1e-5)
    expected = 1 - np.var(y[mask].numpy() - chosen) / np.var(y[mask].numpy())
    assert explained_variance(x, y, mask) == pytest.approx(expected, rel=1e-5)
    parts = [slice(0, 1), slice(1, 4)]
    for found in of_two_ranks(lambda r, total: explained_variance(x[parts[r]], y[parts[r]], mask[parts[r]], total)):
        assert found == pytest.approx(expected, rel=1e-5)
    assert explained_variance(y, y, mask) == 1.0 and explained_variance(y, torch.ones(4, 5), mask) == 0.0


def test_estimators_of_a_divergence() -> None:
    """k1 and k3 have the mean KL(pi || ref) exactly, k2 nearly; k2 and k3 are never negative."""
    torch.manual_seed(0)
    pi, ref = torch.log_softmax(torch.randn(2, 50).double() * 0.1, 1)
    exact = float((pi.exp() * (pi - ref)).sum())
    for estimator, tolerance in ((k1, 1e-9), (k2, 0.05), (k3, 1e-9)):
        assert float((pi.exp() * estimator(pi - ref)).sum()) == pytest.approx(exact, rel=tolerance)
    assert (k2(pi - ref) >= 0).all() and (k3(pi - ref) >= 0).all()


def test_the_weight_of_a_divergence_follows_its_target() -> None:
    """It grows by a tenth of the relative error, which counts as at most 0.2 either way."""
    for kl, factor in ((6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (0.0, 0.98), (5.4, 0.99)):
        assert adapted_coefficient(0.2, kl, target=6.0) == pytest.approx(0.2 * factor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PolicyOptions(kl=KlConfig("loss", "k1")), "kl.estimator=k1 has no effect in the loss"),
        (PolicyOptions(kl=KlConfig("reward", "k3")), "kl.estimator=k3 has in the reward the gradient of no divergence"),
        (PolicyOptions(kl=KlConfig("loss", target=6.0)), "kl.target adapts the weight in the reward alone"),
        (PolicyOptions("ppo", dual_clip=1.2), "dual_clip=1.2 must be above 1 [+] clip_high, 1.2"),
    ],
)
def test_options_that_would_not_do_what_they_say(options: PolicyOptions, message: str) -> None:
    """A divergence without a gradient, one with the wrong gradient, and a dual clip within the clip are refused."""
    with pytest.raises(UserError, match=message):
        policy_loss(options, max_answer=MOST)


@pytest.mark.trl
@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "cispo", "gspo"])
def test_losses_and_gradients_are_those_of_trl(
    answers: dict[str, Tensor], tmp_path: Path, name: LossName, kl: float
) -> None:
    """On the same batch and weights, with clips apart, a dual clip, k3 in the loss and an entropy bonus."""
    model = decisive(SHAPE, 1)
    save_model(tmp_path, model, None)
    options = PolicyOptions(
        name,
        clip_low=0.05,
        clip_high=0.08,
        dual_clip=0.0 if name == "cispo" else 1.3,
        kl=KlConfig("loss" if kl else "none", "k3", coefficient=kl),
        entropy=0.02,
    )
    totals = units(answers["targets"])
    terms = policy_loss(options, max_answer=MOST, temperature=0.8)(model, Batch(answers, totals))
    mine = sum(total.item() / totals[unit] for unit, total in terms.sums.items())
    theirs, gradient = loss_of_trl(answers, tmp_path, options)
    assert mine == pytest.approx(theirs, abs=1e-5)
    for parameter, found in gradients(model, terms, totals).items():
        torch.testing.assert_close(found, gradient[hf_name(parameter)], rtol=1e-5, atol=1e-5)
    assert terms.metrics["clip/low"][0] + terms.metrics["clip/high"][0] > 0


def loss_of_trl(
    answers: dict[str, Tensor], directory: Path, options: PolicyOptions
) -> tuple[float, dict[str, Tensor | None]]:
    """The loss of trl's trainer and its gradient, for the model of a directory."""
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM

    trained: Any = import_module("trl.trainer.grpo_trainer")
    model: Any = AutoModelForCausalLM.from_pretrained(directory)

    def read(model: Any, ids: Tensor, attention_mask: Tensor, n: int, **_: Any) -> tuple[Tensor, Tensor, None]:
        scores = model(input_ids=ids, attention_mask=attention_mask).logits[:, -n - 1 : -1]
        logp = torch.log_softmax(scores / 0.8, -1)
        return logp.gather(2, ids[:, -n:].unsqueeze(2)).squeeze(2), -(logp.exp() * logp).sum(2), None

    def same(x: Tensor, **_: Any) -> Tensor:
        return x

    is_sequence = options.loss == "gspo"
    trainer = object.__new__(trained.GRPOTrainer)  # its loss needs no data and no optimizer
    vars(trainer).update(
        model=model.train(),
        loss_type="grpo" if is_sequence else options.loss,
        importance_sampling_level="sequence" if is_sequence else "token",
        epsilon_low=options.clip_low,
        epsilon_high=options.clip_up + (options.loss == "cispo"),  # there the whole ratio
        beta=options.kl.coefficient if options.kl.place == "loss" else 0.0,
        args=SimpleNamespace(delta=options.dual_clip or None, use_bias_correction_kl=False, steps_per_generation=1),
        entropy_coef=options.entropy,
        max_completion_length=MOST,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        accelerator=SimpleNamespace(num_processes=1, gather=same, reduce=same, sync_gradients=True),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=True,
        _get_per_token_logps_and_entropies=read,
        **dict.fromkeys(("aux_loss_enabled", "use_vllm", "use_adaptive_entropy"), False),
    )
    last = torch.zeros_like(answers["tokens"][:, :1])
    whole, mask = torch.cat([answers["tokens"], last], 1), (answers["targets"] != IGNORE)[:, PROMPT - 1 :]
    whole[:, PROMPT:] = torch.where(mask, answers["targets"][:, PROMPT - 1 :], whole[:, PROMPT:])
    loss = trainer._compute_loss(
        model,
        {
            "prompt_ids": whole[:, :PROMPT],
            "prompt_mask": torch.ones(len(whole), PROMPT, dtype=torch.int64),
            "completion_ids": whole[:, PROMPT:],
            "completion_mask": mask.long(),
            "advantages": answers["advantages"].squeeze(1),
            "old_per_token_logps": answers["old"][:, PROMPT - 1 :],
            "ref_per_token_logps": answers["reference"][:, PROMPT - 1 :],
            "num_items_in_batch": mask.sum(),
        },
    )
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}
