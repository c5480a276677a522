"""Several results of one forward call: losses, entropies and hidden states, and their gradients."""

import numpy as np
import pytest
import torch
from model_fixtures import Tiny, model_of, some_tokens
from torch import Tensor, nn
from torch.nn import functional as F

from babyllm.model import chunk_logits
from babyllm.model.cross_entropy import IGNORE, token_losses
from babyllm.model.entropy import losses_and_entropies, plain_losses_and_entropies


def inputs(n: int, vocab_size: int, dtype: torch.dtype, is_sparse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (N, 6), an output layer (V, 6) that predicts unevenly, and targets of which some are ignored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 6, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(vocab_size, 6, dtype=dtype, generator=generator, requires_grad=True)
    targets = torch.randint(vocab_size, (n,), generator=generator)
    targets[torch.arange(n) % 5 > (0 if is_sparse else 3)] = IGNORE
    return hidden, weight, targets


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize(("n", "vocab_size"), [(50, 30), (150, 40_000)], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize("is_sparse", [True, False], ids=["few targets", "many targets"])
def test_entropies_and_their_gradients_are_those_of_the_formula(
    n: int, vocab_size: int, dtype: torch.dtype, is_sparse: bool
) -> None:
    """Losses, entropies and both gradients equal those of the plain formula in float64, each token weighted alone."""
    hidden, weight, targets = inputs(n, vocab_size, dtype, is_sparse)
    factors = torch.randn(2, n, dtype=dtype, generator=torch.Generator().manual_seed(1))
    found = losses_and_entropies(hidden, weight, targets, int((targets != IGNORE).sum()) if is_sparse else None)
    gradients = torch.autograd.grad((torch.stack(found) * factors).sum(), (hidden, weight))
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = plain_losses_and_entropies(*wide, targets)
    expected = torch.autograd.grad((torch.stack(exact) * factors).sum(), wide)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for got, wanted in zip((*found, *gradients), (*exact, *expected), strict=True):
        assert got.dtype == dtype
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
    assert not found[1][targets == IGNORE].any() and (found[1][targets != IGNORE] > 0).all()


def some_allowed(targets: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """(N, V) bool of a third of the tokens, the targets among them, and the same as bits (N, ceil(V / 8)).

    Where the target is ignored all are allowed; at the first place only the target is.
    """
    allowed = torch.rand(len(targets), vocab_size, generator=torch.Generator().manual_seed(2)) < 1 / 3
    allowed[0] = False
    allowed[targets == IGNORE] = True
    allowed.scatter_(1, targets.clamp(min=0).unsqueeze(1), True)
    return allowed, torch.from_numpy(np.packbits(allowed.numpy(), axis=1, bitorder="little"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize(("n", "vocab_size"), [(50, 30), (300, 4099)], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize("is_sparse", [True, False], ids=["few targets", "many targets"])
def test_what_is_not_allowed_is_out_of_the_distribution(
    n: int, vocab_size: int, dtype: torch.dtype, is_sparse: bool
) -> None:
    """Under a mask losses, entropies and gradients are those of a softmax over logits with minus infinity."""
    hidden, weight, targets = inputs(n, vocab_size, dtype, is_sparse)
    allowed, bits = some_allowed(targets, vocab_size)
    n_targets = int((targets != IGNORE).sum()) if is_sparse else None
    factors = torch.randn(2, n, dtype=dtype, generator=torch.Generator().manual_seed(1))

    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    log_probs = F.linear(*wide).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    entropies = -(log_probs.exp() * log_probs.masked_fill(~allowed, 0.0)).sum(-1).masked_fill(targets == IGNORE, 0.0)
    nats = F.nll_loss(log_probs, targets, ignore_index=IGNORE, reduction="none")

    both = losses_and_entropies(hidden, weight, targets, n_targets, bits)
    alone = token_losses(hidden, weight, targets, None, n_targets, bits)
    weighted = token_losses(hidden, weight, targets, factors[0], n_targets, bits)
    assert torch.equal(both[0], alone) and not both[1][0].any() and not both[0][0].any()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for found, exact in (
        ((torch.stack(both) * factors).sum(), (torch.stack((nats, entropies)) * factors).sum()),
        ((alone * factors[0]).sum(), (nats * factors[0]).sum()),
        (weighted.sum(), (nats * factors[0]).sum()),
    ):
        expected = torch.autograd.grad(exact, wide, retain_graph=True)
        gradients = torch.autograd.grad(found, (hidden, weight))
        for got, wanted in zip((*both, *gradients), (nats, entropies, *expected), strict=True):
            assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_a_mask_of_ones_changes_no_bit(tiny: Tiny) -> None:
    """Where everything is allowed, each result is that of a call without a mask; with any mask it is a model's too."""
    model = model_of(tiny())
    tokens, targets = some_tokens(model.config), some_tokens(model.config).roll(-1, 1)
    asked = ("nats", "entropy", "hidden")
    whole = torch.full((*targets.shape, -(-model.config.vocab_size // 8)), 0xFF, dtype=torch.uint8)
    free, held = model(tokens, targets, returns=asked), model(tokens, targets, allowed=whole, returns=asked)
    assert all(torch.equal(free[name], held[name]) for name in asked)
    allowed, bits = some_allowed(targets.flatten(), model.config.vocab_size)
    nats = model(tokens, targets, temperature=0.7, allowed=bits.view(*targets.shape, -1))
    scores = (model.logits(tokens) / 0.7).masked_fill(~allowed.view(*targets.shape, -1), -torch.inf)
    exact = -scores.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(nats, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_beside_entropies_are_the_losses_alone(dtype: torch.dtype) -> None:
    """Asking for entropies changes no bit of the losses, in full precision or under autocast."""
    hidden, weight, targets = inputs(150, 40_000, torch.float32, is_sparse=False)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses, entropies = losses_and_entropies(hidden, weight, targets)
        assert torch.equal(losses, token_losses(hidden, weight, targets))
    assert losses.dtype == entropies.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_weights_of_entropies_lose_nothing_in_16_bits(dtype: torch.dtype) -> None:
    """Gradients weighted by a power of two are the others times it, bit for bit, and near those in float32."""
    hidden, weight, targets = inputs(20, 500, torch.float32, is_sparse=False)

    def gradients(scale: float, is_enabled: bool = True) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype, enabled=is_enabled):
            losses, entropies = losses_and_entropies(hidden, weight, targets)
        return torch.autograd.grad((losses - 0.5 * entropies).sum() * scale, (hidden, weight))

    for small, plain, exact in zip(gradients(2.0**-14), gradients(1.0), gradients(1.0, False), strict=True):
        assert torch.equal(small, plain * 2.0**-14)
        assert (plain - exact).norm() < 0.02 * exact.norm()


def test_no_more_logits_than_a_chunk_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """With chunks of 64 tokens, nothing that either pass makes has more rows of the vocabulary than 64."""
    monkeypatch.setitem(chunk_logits.CHUNK_BYTES, "cpu", 1)
    monkeypatch.setattr(chunk_logits, "FEWEST_ROWS", 64)
    hidden, weight, targets = inputs(300, 50, torch.float32, is_sparse=False)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] == 50:
                self.rows = max(self.rows, len(out))
            return out

    with Largest() as largest:
        losses, entropies = losses_and_entropies(hidden, weight, targets)
        (losses + entropies).sum().backward()
    assert largest.rows == 64


def test_results_come_from_one_pass(tiny: Tiny) -> None:
    """Each result asked for equals what it is alone, by name, and the losses are those of a plain call."""
    model = model_of(tiny())
    tokens, targets = some_tokens(model.config), some_tokens(model.config).roll(-1, 1)
    targets[:, -3:] = IGNORE
    weights = torch.rand(targets.shape)
    found = model(tokens, targets, weights=weights, returns=("nats", "entropy", "hidden"))
    assert list(found) == ["nats", "entropy", "hidden"]
    assert torch.equal(found["nats"], model(tokens, targets, weights=weights))
    assert torch.equal(found["hidden"], model.hidden(tokens))
    log_probs = model.logits(tokens).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1).masked_fill(targets == IGNORE, 0.0)
    torch.testing.assert_close(found["entropy"], entropy)
    assert list(model(tokens, targets, returns=("nats",))) == ["nats"]
    assert list(model(tokens, returns=("hidden",))) == ["hidden"]
    for name in ("nats", "entropy", "values"):
        with pytest.raises(KeyError, match=name):
            model(tokens, returns=(name,))


def test_packed_hidden_states_are_those_of_each_document(tiny: Tiny) -> None:
    """`hidden` takes positions and document numbers as the forward call does."""
    model = model_of(tiny())
    tokens = some_tokens(model.config)
    documents = (torch.arange(20) // 12).expand(2, 20)
    positions = torch.cat([torch.arange(12), torch.arange(8)]).expand(2, 20)
    packed = model.hidden(tokens, positions, documents)
    alone = torch.cat([model.hidden(part) for part in tokens.split([12, 8], 1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("is_tied", [False, True])
def test_ddp_sees_all_that_a_loss_asks_for(tiny: Tiny, is_tied: bool) -> None:
    """Through DDP the gradients of a loss of losses, entropies and hidden states equal those without it."""
    plain, wrapped = (model_of(tiny(tie_embeddings=is_tied)).train() for _ in range(2))
    tokens = some_tokens(plain.config)
    for model in (plain, nn.parallel.DistributedDataParallel(wrapped, gradient_as_bucket_view=True)):
        found = model(tokens, tokens.roll(-1, 1), returns=("nats", "entropy", "hidden"))
        (found["nats"].sum() - 0.1 * found["entropy"].sum() + found["hidden"].square().mean()).backward()
    for mine, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and torch.equal(mine.grad, theirs.grad)
