"""Expected gradients of policy losses equal exact ones, summed over all answers a tiny model can give.

The vocabulary has 4 tokens, an answer at most 3, so an expectation over answers is a sum over at most 64 of them.
"""

from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from babyllm.data.batch import Batch
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.entropy import losses_and_entropies
from babyllm.objectives.policy.advantages import gae, group_advantages, leave_one_out
from babyllm.objectives.policy.kl import in_loss, in_reward
from babyllm.objectives.policy.losses import policy_loss
from babyllm.objectives.policy.policy_options import Estimator, KlConfig, LossName, PolicyOptions

V, LENGTH, TEMPERATURE = 4, 3, 0.7
NAMES: tuple[LossName, ...] = get_args(LossName)
EXACT_SUMS: tuple[LossName, ...] = ("reinforce", "dr_grpo", "dapo", "cispo", "ppo")
END = 0


class Writer(nn.Module):
    """A model in float64, which a `Transformer` is not: each state is a function of all tokens before it."""

    def __init__(self, seed: int, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(LENGTH, V, width, dtype=torch.float64))
        self.output = nn.Parameter(torch.randn(V, width, dtype=torch.float64))

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, width)."""
        return self.embedding[torch.arange(tokens.shape[1]), tokens].cumsum(1).tanh()

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        positions: None,
        documents: None,
        n_targets: int,
        temperature: float,
        returns: tuple[str, ...],
        allowed: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Nats and entropies by the functions that a `Transformer` calls."""
        found = losses_and_entropies(self.hidden(tokens) / temperature, self.output, targets, n_targets, allowed)
        return dict(zip(("nats", "entropy"), found, strict=True))


class World:
    """A policy, its reference and every answer that can be given, with a reward each.

    Attributes:
        targets: (N, LENGTH) answers, `IGNORE` after an answer's end.
        rewards: (N,), any numbers.
        allowed: (N, LENGTH, V) bool, the tokens that are drawn among; under a constraint no token repeats the last one.
    """

    def __init__(self, has_end: bool = False, is_held: bool = False) -> None:
        self.model, self.reference = Writer(1), Writer(2)
        answers = [self._ended(answer) if has_end else answer for answer in product(range(V), repeat=LENGTH)]
        targets = torch.tensor(sorted(set(answers)))
        tokens = torch.cat([torch.ones_like(targets[:, :1]), targets[:, :-1].clamp_min(0)], 1)
        fits = (tokens != targets).all(1) if is_held else torch.ones(len(targets), dtype=torch.bool)
        self.targets, self.tokens, self.is_held = targets[fits], tokens[fits], is_held
        self.allowed = torch.ones(*self.targets.shape, V, dtype=torch.bool)
        if is_held:
            self.allowed = self.allowed.scatter(2, self.tokens.unsqueeze(2), False)
        self.mask = self.targets != IGNORE
        self.rewards = torch.randn(len(self.targets), generator=torch.Generator().manual_seed(3)).double()

    @staticmethod
    def _ended(answer: tuple[int, ...]) -> tuple[int, ...]:
        n = answer.index(END) + 1 if END in answer else LENGTH
        return (*answer[:n], *[IGNORE] * (LENGTH - n))

    def logits(self, model: Writer) -> Tensor:
        """(N, LENGTH, V) log-probabilities of all tokens at each place, from the definition of a temperature."""
        scores = (model.hidden(self.tokens) @ model.output.T).masked_fill(~self.allowed, -torch.inf)
        return torch.log_softmax(scores / TEMPERATURE, -1)

    def logp(self, model: Writer) -> Tensor:
        """(N, LENGTH) log-probabilities of the answers' tokens; 0 after their end."""
        chosen = self.logits(model).gather(2, self.targets.clamp_min(0).unsqueeze(2)).squeeze(2)
        return chosen.masked_fill(~self.mask, 0.0)

    def probabilities(self, model: Writer) -> Tensor:
        """(N,) probabilities of the answers, which add up to 1."""
        return self.logp(model).sum(1).exp()

    def gradient(self, value: Tensor) -> Tensor:
        """The gradient of a number by all parameters of the policy, in one vector."""
        found = torch.autograd.grad(value, list(self.model.parameters()), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.model.parameters(), strict=True)]
        return torch.cat([g.flatten() for g in flat])

    def expected(self, options: PolicyOptions, advantages: Tensor) -> Tensor:
        """The expected gradient of a loss over answers of the present policy: each alone, times its probability."""
        loss = policy_loss(options, max_answer=LENGTH, temperature=TEMPERATURE)
        old, reference = self.logp(self.model).detach(), self.logp(self.reference).detach()
        bits = (self.allowed * 2 ** torch.arange(V)).sum(2, keepdim=True).byte()
        held = {"allowed": bits} if self.is_held else {}
        total = torch.zeros((), dtype=torch.float64)
        for i, probability in enumerate(self.probabilities(self.model).detach()):
            row = slice(i, i + 1)
            tensors = {"tokens": self.tokens, "targets": self.targets, "old": old, "reference": reference}
            tensors = {name: x[row] for name, x in {**tensors, **held, "advantages": advantages}.items()}
            batch = Batch(tensors, {"token": int(self.mask[row].sum()), "sequence": 1})
            total = total + probability * sum(loss(self.model, batch).sums.values())
        return self.gradient(total)

    def of_reward(self, rewards: Tensor | None = None) -> Tensor:
        """The exact gradient of the expected reward."""
        return self.gradient((self.probabilities(self.model) * (self.rewards if rewards is None else rewards)).sum())

    def divergence(self, is_forward: bool) -> Tensor:
        """The exact gradient of the divergence of whole answers: KL(ref || pi) if forward, else KL(pi || ref)."""
        mine, theirs = self.logp(self.model).sum(1), self.logp(self.reference).sum(1).detach()
        return self.gradient((theirs.exp() * -mine if is_forward else mine.exp() * (mine - theirs)).sum())

    def divergence_of_tokens(self, is_forward: bool) -> Tensor:
        """The exact gradient of the divergences of next tokens after prefixes that the present policy writes."""
        mine, theirs = self.logits(self.model), self.logits(self.reference).detach()
        at_each = (theirs.exp() * -mine if is_forward else mine.exp() * (mine - theirs)).sum(2)
        reached = self.probabilities(self.model).detach().unsqueeze(1) * self.mask
        return self.gradient((reached * at_each).sum())


@pytest.fixture(scope="module")
def world() -> World:
    """Answers of three tokens."""
    return World()


@pytest.fixture(scope="module")
def ending() -> World:
    """Answers of one to three tokens, which token 0 ends."""
    return World(has_end=True)


@pytest.fixture(scope="module")
def held() -> World:
    """Answers of three tokens in which no token repeats the last one."""
    return World(is_held=True)


def close(found: Tensor, exact: Tensor) -> None:
    """Equal within 1e-6, and not because both are nothing."""
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


def test_all_answers_are_enumerated(world: World, ending: World, held: World) -> None:
    """Their probabilities add up to one."""
    assert (len(world.targets), len(ending.targets), len(held.targets)) == (64, 40, 27)
    for case in (world, ending, held):
        assert case.probabilities(case.model).sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_gradient_is_that_of_the_reward(world: World, name: LossName) -> None:
    """With any constant baseline; mean losses over an answer of three tokens have a third of it."""
    factor = 1 / LENGTH if name in ("grpo", "dr_grpo", "gspo") else 1.0
    advantages = (world.rewards - 0.3).unsqueeze(1)
    close(-world.expected(PolicyOptions(name), advantages), factor * world.of_reward())


@pytest.mark.parametrize("name", NAMES)
def test_a_constraint_is_in_the_gradient(held: World, name: LossName) -> None:
    """Of answers drawn among what is allowed, the expected gradient is that of the reward, and of the divergence."""
    factor = 1 / LENGTH if name in ("grpo", "dr_grpo", "gspo") else 1.0
    close(-held.expected(PolicyOptions(name), (held.rewards - 0.3).unsqueeze(1)), factor * held.of_reward())
    kl = KlConfig("loss", "k2", "answer", coefficient=1.0)
    if name == "reinforce":
        found = held.expected(PolicyOptions(name, kl=kl), torch.zeros(len(held.targets), 1).double())
        close(found, held.divergence(is_forward=False))


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_several_lengths(ending: World, name: LossName) -> None:
    """Sums over tokens stay exact; means over an answer weigh it by 1 / its length, which is another gradient."""
    found = -ending.expected(PolicyOptions(name), ending.rewards.unsqueeze(1))
    factor = 1 / LENGTH if name == "dr_grpo" else 1.0
    if name in EXACT_SUMS:
        close(found, factor * ending.of_reward())
        return
    weighed = ending.rewards / ending.mask.sum(1)
    close(found, ending.of_reward(weighed))
    assert (found - found.norm() / ending.of_reward().norm() * ending.of_reward()).norm() > 0.01 * found.norm()


@pytest.mark.parametrize(
    ("estimator", "of", "is_forward"),
    [("k2", "answer", False), ("k3", "answer", True), ("k2", "token", False), ("k3", "token", True)],
)
def test_a_divergence_in_the_loss(ending: World, estimator: Estimator, of: str, is_forward: bool) -> None:
    """k2 has the gradient of KL(pi || ref) and k3 that of KL(ref || pi), of whole answers or of next tokens."""
    kl = KlConfig("loss", estimator, of, coefficient=1.0)  # type: ignore[arg-type]
    found = ending.expected(PolicyOptions("reinforce", kl=kl), torch.zeros(len(ending.targets), 1).double())
    close(found, ending.divergence(is_forward) if of == "answer" else ending.divergence_of_tokens(is_forward))


def test_k1_in_the_loss_is_noise(ending: World) -> None:
    """Its expected gradient is 0 for whole answers."""
    old = ending.probabilities(ending.model).detach()
    terms = in_loss("k1", ending.logp(ending.model), ending.logp(ending.reference).detach(), ending.mask)
    assert ending.gradient((old * terms.sum(1)).sum()).abs().max() < 1e-9


@pytest.mark.parametrize("name", EXACT_SUMS)
def test_a_divergence_in_the_reward(ending: World, name: LossName) -> None:
    """k1 in the reward of an answer has the gradient of reward less KL(pi || ref), by every exact loss."""
    mine, theirs = (ending.logp(model).detach() for model in (ending.model, ending.reference))
    paid = in_reward(_at_the_end(ending), mine, theirs, ending.mask, 0.4).sum(1, keepdim=True)
    factor = 1 / LENGTH if name == "dr_grpo" else 1.0
    exact = factor * (ending.of_reward() - 0.4 * ending.divergence(is_forward=False))
    close(-ending.expected(PolicyOptions(name), paid), exact)


def _at_the_end(world: World) -> Tensor:
    """(N, LENGTH): an answer's reward at its last token."""
    rewards = torch.zeros(world.mask.shape).double()
    return rewards.scatter(1, world.mask.sum(1, keepdim=True) - 1, world.rewards.unsqueeze(1))


@pytest.mark.parametrize(("lam", "baseline"), [(1.0, "any"), (0.5, "exact"), (0.0, "exact")])
def test_estimates_of_advantages_are_exact_in_expectation(ending: World, lam: float, baseline: str) -> None:
    """Per-token rewards with k1: any values do at lam 1, and the true values at every lam."""
    mine, theirs = (ending.logp(model).detach() for model in (ending.model, ending.reference))
    rewards = in_reward(_at_the_end(ending), mine, theirs, ending.mask, 0.4)
    prefixes = (ending.tokens * V ** torch.arange(LENGTH)).cumsum(1)  # a number for each
    values = torch.cos(prefixes.double())  # a function of the state alone
    if baseline == "exact":
        whole, p = rewards.flip(1).cumsum(1).flip(1), mine.sum(1).exp()
        for t in range(LENGTH):
            for prefix in torch.unique(prefixes[:, t]):
                at = (prefixes[:, t] == prefix) & ending.mask[:, t]
                values[at, t] = (p[at] * whole[at, t]).sum() / p[at].sum() if at.any() else 0.0
    values = torch.cat([values, torch.full_like(values[:, :1], 9.0)], 1)
    advantages, _ = gae(rewards, values, ending.mask, torch.zeros(len(values), dtype=torch.bool), 1.0, lam)
    exact = ending.of_reward() - 0.4 * ending.divergence(is_forward=False)
    close(-ending.expected(PolicyOptions("ppo"), advantages), exact)


def test_k1_in_the_reward_of_each_token_is_k2_in_its_loss(ending: World) -> None:
    """Without a share in later rewards, a token's k1 has the gradient of the divergence of next tokens."""
    mine, theirs = (ending.logp(model).detach() for model in (ending.model, ending.reference))
    paid = in_reward(torch.zeros(mine.shape).double(), mine, theirs, ending.mask, 1.0)
    values, never = torch.zeros(len(mine), LENGTH + 1).double(), torch.zeros(len(mine), dtype=torch.bool)
    advantages, _ = gae(paid, values, ending.mask, never, gamma=0.0)
    kl = KlConfig("loss", "k2", coefficient=1.0)
    in_loss_k2 = ending.expected(PolicyOptions("reinforce", kl=kl), torch.zeros(len(mine), 1).double())
    close(ending.expected(PolicyOptions("reinforce"), advantages), -ending.expected(PolicyOptions("ppo"), -advantages))
    close(ending.expected(PolicyOptions("reinforce"), advantages), in_loss_k2)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cispo"])
def test_gradients_are_what_finite_differences_say(ending: World, name: LossName) -> None:
    """Away from the policy that drew the answers, with clipping, a divergence and an entropy bonus."""
    options = PolicyOptions(name, 0.1, 0.3, 1.5, KlConfig("loss", "k3", coefficient=0.5), entropy=0.1)
    loss, theirs = policy_loss(options, max_answer=LENGTH, temperature=TEMPERATURE), Writer(4)
    with torch.no_grad():
        for mine, other in zip(theirs.parameters(), ending.model.parameters(), strict=True):
            mine.copy_(other + 0.3 * mine)
    old, reference = (ending.logp(model).detach() for model in (theirs, ending.reference))
    tensors = {"tokens": ending.tokens, "targets": ending.targets, "old": old, "reference": reference}
    units = {"token": int(ending.mask.sum()), "sequence": len(old)}
    batch = Batch({**tensors, "advantages": ending.rewards.unsqueeze(1)}, units)
    found = loss(ending.model, batch)
    assert found.metrics["clip/low"][0] > 0 and found.metrics["clip/high"][0] > 0

    def of(embedding: Tensor, output: Tensor) -> Tensor:
        weights = {"embedding": embedding, "output": output}
        terms = loss(_Called(ending.model, weights), batch)
        return torch.stack(list(terms.sums.values()))

    inputs = tuple(p.detach().clone().requires_grad_() for p in ending.model.parameters())
    assert torch.autograd.gradcheck(of, inputs, fast_mode=True, eps=1e-7)


class _Called(nn.Module):
    """A model that is called with other weights than its own."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._called = lambda *args, **options: torch.func.functional_call(model, weights, args, options)

    def forward(self, *args: object, **options: object) -> dict[str, Tensor]:
        """The model's results."""
        found: dict[str, Tensor] = self._called(*args, **options)
        return found


def test_an_entropy_bonus(ending: World) -> None:
    """It has the gradient of the entropies of next tokens after what the present policy writes."""
    logits = ending.logits(ending.model)
    reached = ending.probabilities(ending.model).detach().unsqueeze(1) * ending.mask
    exact = ending.gradient((reached * -(logits.exp() * logits).sum(2)).sum())
    nothing = torch.zeros(len(ending.targets), 1).double()
    close(-ending.expected(PolicyOptions("ppo", entropy=1.0), nothing), exact)


@pytest.mark.parametrize(
    ("advantages", "factor"),
    [(lambda r: group_advantages(r, 2, "none"), 0.5), (lambda r: leave_one_out(r, 2), 1.0)],
)
def test_baselines_of_a_group(world: World, advantages: Callable[[Tensor], Tensor], factor: float) -> None:
    """Over all pairs of answers, centring has (n - 1) / n of the exact gradient and leaving one out all of it."""
    p, n = world.probabilities(world.model), len(world.targets)
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    found = advantages(world.rewards[pairs].flatten()).view(-1, 2)
    chance = p.detach()[pairs].prod(1, keepdim=True)
    scores = world.logp(world.model).sum(1)[pairs]
    close(world.gradient((chance * found * scores).sum() / 2), factor * world.of_reward())
