"""The transformer against plain formulas: losses, gradients, masks, cache, checkpointing, initial weights."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from babyllm.errors import UserError
from babyllm.model.config import Checkpointing, ModelConfig, RopeScaling, flops_per_token, parameter_counts
from babyllm.model.cross_entropy import IGNORE, plain_token_losses, token_losses
from babyllm.model.options import PRESETS, ModelOptions
from babyllm.model.transformer import Transformer

Tiny = Callable[..., ModelConfig]


def model_of(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model whose weights are large enough for every part to show in the output."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


def random_ids(*shape: int, high: int = 400, seed: int = 1) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def some_ignored(targets: Tensor, seed: int = 2) -> Tensor:
    chosen = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    return targets.masked_fill(chosen, IGNORE)


def test_losses_are_the_cross_entropy_of_the_logits(tiny: Tiny) -> None:
    """The forward call returns each target's cross entropy against `logits`, and 0 where it is ignored."""
    model = model_of(tiny())
    tokens, targets = random_ids(3, 20), some_ignored(random_ids(3, 20, seed=3))
    losses = model(tokens, targets)
    expected = F.cross_entropy(model.logits(tokens).flatten(0, 1), targets.flatten(), reduction="none")
    assert losses.shape == (3, 20) and losses.dtype == torch.float32
    assert torch.allclose(losses.flatten(), expected, atol=1e-5)
    assert (losses[targets == IGNORE] == 0).all() and (losses[targets != IGNORE] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize(
    ("n", "vocab_size"), [(50, 30), (150, 40_000), (1, 5)], ids=["one chunk", "several chunks", "one token"]
)
@pytest.mark.parametrize("upstream_is", ["one number", "weights", "anything"])
@pytest.mark.parametrize("is_sparse", [True, False], ids=["few targets", "many targets"])
def test_loss_gradients_equal_autograd_of_the_formula(
    n: int, vocab_size: int, dtype: torch.dtype, upstream_is: str, is_sparse: bool
) -> None:
    """Losses and both gradients equal those of a plain cross entropy, whatever weight each token's loss has.

    Rounding adds up like a random walk: a sum of K terms is off by a few times u sqrt(K) of the sum of their sizes.
    The longest sums are over the vocabulary, one in the softmax and one in the product after it.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 6, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(vocab_size, 6, dtype=dtype, generator=generator, requires_grad=True)
    targets = random_ids(n, high=vocab_size)
    targets = some_ignored(targets) if n > 1 else targets
    targets[1:] = targets[1:].masked_fill(torch.arange(1, n) % 5 > 0, IGNORE) if is_sparse else targets[1:]
    is_one = upstream_is == "one number"
    factors = torch.full((n,), -1.7, dtype=dtype) if is_one else torch.randn(n, dtype=dtype, generator=generator)
    weights = factors if upstream_is == "weights" else None

    losses = token_losses(hidden, weight, targets, weights, int((targets != IGNORE).sum()) if is_sparse else None)
    torch.autograd.grad((losses * 0.3).sum(), (hidden, weight), retain_graph=True)  # asking twice changes nothing
    total = -1.7 * losses.sum() if is_one else losses.sum() if weights is not None else (losses * factors).sum()
    gradients = torch.autograd.grad(total, (hidden, weight))

    wide, exact_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact = plain_token_losses(wide, exact_weight, targets)
    expected = torch.autograd.grad((exact * factors).sum(), (wide, exact_weight), retain_graph=True)
    terms = ((wide @ exact_weight.T).softmax(1) + F.one_hot(targets.clamp(min=0), vocab_size)) * factors.abs()[:, None]
    terms = terms.masked_fill((targets == IGNORE)[:, None], 0.0)
    sizes = (terms @ exact_weight.abs(), terms.T @ wide.abs())

    bound = 8 * torch.finfo(dtype).eps / 2 * (1 + 2 * vocab_size**0.5)
    given = exact if weights is None else exact * weights
    assert losses.dtype == dtype
    assert ((losses - given).abs() <= bound * (1 + given.abs())).all()
    for got, wanted, size in zip(gradients, expected, sizes, strict=True):
        assert got.dtype == dtype
        assert ((got - wanted).abs() <= bound * size).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_weights_of_tokens_lose_nothing_in_16_bits(dtype: torch.dtype) -> None:
    """Gradients of losses weighted by a power of two are the others times it, bit for bit."""
    hidden, weight = torch.randn(20, 6, requires_grad=True), torch.randn(500, 6, requires_grad=True)
    targets, small = random_ids(20, high=500), torch.full((20,), 2.0**-14)
    with torch.autocast("cpu", dtype):
        plain = torch.autograd.grad(token_losses(hidden, weight, targets).sum(), (hidden, weight))
        weighted = torch.autograd.grad(token_losses(hidden, weight, targets, small).sum(), (hidden, weight))
    for mine, others in zip(weighted, plain, strict=True):
        assert torch.equal(mine, others * 2.0**-14) and mine.any()


@pytest.mark.parametrize("n_targets", [None, 0])
def test_ignored_rows_have_no_gradient(n_targets: int | None) -> None:
    """A batch whose targets are all ignored has loss 0 and gradients of exactly 0, whatever comes from above."""
    hidden = torch.randn(10, 6, requires_grad=True)
    weight = torch.randn(30, 6, requires_grad=True)
    losses = token_losses(hidden, weight, torch.full((10,), IGNORE), torch.ones(10), n_targets)
    (losses * 7.0).sum().backward()
    assert losses.sum() == 0
    assert hidden.grad is not None and not hidden.grad.any()
    assert weight.grad is not None and not weight.grad.any()


def test_gradients_in_16_bits_are_close_to_those_in_32(tiny: Tiny) -> None:
    """Under autocast to bfloat16 every weight's gradient points where the float32 gradient points."""
    tokens, targets = random_ids(4, 32), some_ignored(random_ids(4, 32, seed=3))
    gradients = []
    for is_enabled in (False, True):
        torch.manual_seed(0)
        model = Transformer(tiny())
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            losses = model(tokens, targets)
        losses.sum().backward()
        gradients.append({name: weight.grad.flatten() for name, weight in model.named_parameters()})
    for name, exact in gradients[0].items():
        assert F.cosine_similarity(exact, gradients[1][name], dim=0) > 0.995, name
        assert gradients[1][name].norm() == pytest.approx(exact.norm().item(), rel=0.03), name


@pytest.mark.parametrize("is_tied", [False, True])
def test_model_gradients_equal_those_of_a_plain_cross_entropy(tiny: Tiny, is_tied: bool) -> None:
    """Gradients of all weights, the tied embedding's two roles included, equal autograd through the whole logits."""
    model = model_of(tiny(tie_embeddings=is_tied)).train()
    tokens, targets = random_ids(2, 16), some_ignored(random_ids(2, 16, seed=3))
    hidden: list[Tensor] = []
    handle = model.norm.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    model(tokens, targets).sum().backward()
    got = {name: weight.grad for name, weight in model.named_parameters()}
    handle.remove()
    model.zero_grad()
    model_hidden: list[Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, output: model_hidden.append(output))
    model(tokens, torch.full_like(targets, IGNORE))
    logits = F.linear(model_hidden[0], model.lm_head.weight)
    F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    assert torch.equal(hidden[0], model_hidden[0])
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name
        assert torch.allclose(got[name], weight.grad, rtol=1e-4, atol=1e-4), name


def test_packed_documents_do_not_see_each_other(tiny: Tiny) -> None:
    """A row of several documents, masked and with positions from 0, has the losses of each document run alone."""
    model = model_of(tiny())
    lengths = [7, 1, 20, 12]
    tokens, targets = random_ids(1, sum(lengths)), random_ids(1, sum(lengths), seed=3)
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = model(tokens, targets, positions, documents)
    parts = zip(tokens.split(lengths, 1), targets.split(lengths, 1), strict=True)
    alone = torch.cat([model(part, target) for part, target in parts], dim=1)
    assert (packed - alone).abs().max() < 1e-5
    assert (model(tokens, targets) - alone).abs().max() > 1e-2, "without the mask they do see each other"


def test_a_token_does_not_see_what_follows(tiny: Tiny) -> None:
    """Changing a token changes no logits before it, and all from it on."""
    model = model_of(tiny())
    tokens = random_ids(1, 20)
    changed = tokens.clone()
    changed[0, 12] = (tokens[0, 12] + 1) % 400
    before, after = model.logits(tokens), model.logits(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert ((before - after).abs().amax(-1)[:, 12:] > 1e-3).all()


def test_more_tokens_than_max_seq_len_are_an_error(tiny: Tiny) -> None:
    """A sequence longer than the rotary positions reach is refused in words."""
    model = model_of(tiny(max_seq_len=16))
    model.logits(random_ids(1, 16))
    with pytest.raises(UserError, match="max_seq_len of 16"):
        model.logits(random_ids(1, 17))


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", ["selective", True, 2])
def test_activation_checkpointing_changes_nothing(
    tiny: Tiny, checkpointing: Checkpointing, dtype: torch.dtype | None, is_packed: bool
) -> None:
    """Loss and gradients are the same bit for bit, with dropout on, whatever the backward pass computes again."""
    tokens, targets = random_ids(2, 16), random_ids(2, 16, seed=3)
    extra = (torch.arange(16).expand(2, 16) % 8, torch.arange(16).expand(2, 16) // 8) if is_packed else ()
    results = []
    for kind in (False, checkpointing):
        model = model_of(tiny(activation_checkpointing=kind, dropout=0.2)).train()
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(tokens, targets, *extra).sum()
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def kept_bytes(model: Transformer, rows: int, length: int) -> int:
    """Bytes that a forward pass keeps for its backward pass, beside the parameters."""
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(random_ids(rows, length), random_ids(rows, length, seed=3)).sum()
    assert loss.requires_grad
    return sum(size for place, size in found.items() if place not in weights)


def test_activation_checkpointing_keeps_less(tiny: Tiny) -> None:
    """The forward pass keeps most bytes without it, fewer than two thirds if it is selective, fewest if it is full.

    Every second block keeps half of what it saves.
    """
    plain, selective, full, half = (
        kept_bytes(model_of(tiny(activation_checkpointing=kind)).train(), 8, 64)
        for kind in (False, "selective", True, 2)
    )
    assert full < selective < 2 / 3 * plain
    assert half == pytest.approx((plain + full) / 2, rel=0.05)


@pytest.mark.parametrize("kind", [False, "selective"])
def test_a_pass_keeps_no_copy_of_a_weight(tiny: Tiny, kind: Checkpointing) -> None:
    """What it keeps grows with the rows, but for the rotary angles and one number."""
    model = model_of(tiny(activation_checkpointing=kind)).train()
    angles = sum(x.untyped_storage().nbytes() for x in model.rotations(8, torch.device("cpu")))
    assert 2 * kept_bytes(model, 2, 8) - kept_bytes(model, 4, 8) == angles + 4


def test_dropout_is_active_in_training_only(tiny: Tiny) -> None:
    """In training two passes differ; in evaluation they equal each other and a model without dropout."""
    tokens, targets = random_ids(2, 16), random_ids(2, 16, seed=3)
    model, plain = model_of(tiny(dropout=0.5)), model_of(tiny())
    assert torch.equal(model(tokens, targets), plain(tokens, targets))
    model.train()
    assert not torch.equal(model(tokens, targets), model(tokens, targets))
    plain.train()
    assert torch.equal(plain(tokens, targets), plain(tokens, targets))


@pytest.mark.parametrize("n_layers", [2, 8])
def test_initial_weights(tiny: Tiny, n_layers: int) -> None:
    """Weights start with std 0.02, o_proj and down_proj with 0.02 / sqrt(2 L), norms as ones."""
    torch.manual_seed(0)
    model = Transformer(tiny(n_layers=n_layers, d_model=128, d_ff=256))
    small = 0.02 / math.sqrt(2 * n_layers)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == 1).all(), name
            continue
        kind = name.split(".")[-2]
        std = small if kind in ("o_proj", "down_proj") else 0.02
        assert weight.std().item() == pytest.approx(std, rel=0.05), name
        assert abs(weight.mean().item()) < 0.05 * std, name
    names = {name.split(".")[-2] for name, weight in model.named_parameters() if weight.dim() == 2}
    assert names == {
        *("embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


@pytest.mark.parametrize("is_tied", [False, True])
def test_initial_loss_is_that_of_chance(tiny: Tiny, is_tied: bool) -> None:
    """A model that has learned nothing loses ln V per token."""
    torch.manual_seed(0)
    model = Transformer(tiny(tie_embeddings=is_tied))
    losses = model(random_ids(4, 64), random_ids(4, 64, seed=3))
    assert losses.mean().item() == pytest.approx(math.log(400), rel=0.01)


@pytest.mark.parametrize("is_tied", [False, True])
def test_parameter_counts_are_those_of_the_model(tiny: Tiny, is_tied: bool) -> None:
    """The counts by part add up to the weights that exist, and the FLOPs to 6 per weight that multiplies."""
    config = tiny(tie_embeddings=is_tied, n_kv_heads=1)
    model = Transformer(config)
    counts = parameter_counts(config)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["mlp"] == sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    matrices = sum(p.numel() for p in model.layers.parameters() if p.dim() == 2) + config.vocab_size * config.d_model
    assert flops_per_token(config, 64) == 6 * matrices + 6 * config.n_layers * config.d_model * 64


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_size_in_their_name(preset: str) -> None:
    """Every preset is a possible shape, and the named sizes are about right."""
    total = sum(parameter_counts(ModelOptions(preset).build()).values())
    named = re.fullmatch(r"(\d+)([mb])", preset)
    if named:
        assert total == pytest.approx(int(named[1]) * {"m": 1e6, "b": 1e9}[named[2]], rel=0.11)
    else:
        assert total < 10e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "model.vocab_size=0"),
        ({"n_layers": 0}, "model.n_layers=0"),
        ({"n_heads": 0}, "model.n_heads=0"),
        ({"n_kv_heads": 0}, "model.n_kv_heads=0"),
        ({"d_ff": -1}, "model.d_ff=-1"),
        ({"max_seq_len": 0}, "model.max_seq_len=0"),
        ({"n_heads": 5, "n_kv_heads": 5}, "model.n_heads=5: must divide model.d_model=32"),
        ({"n_heads": 32, "n_kv_heads": 32}, "even width"),
        ({"n_kv_heads": 3}, "model.n_kv_heads=3: must divide model.n_heads=4"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"dropout": -0.1}, "model.dropout=-0.1"),
        ({"rope_scaling": RopeScaling("dynamic", 2.0, 32)}, "dynamic"),
    ],
)
def test_impossible_shapes_are_refused(tiny: Tiny, changes: dict[str, object], message: str) -> None:
    """A shape that cannot be is refused with the name of the field at fault."""
    with pytest.raises(UserError, match=message):
        tiny(**changes)


def test_shapes_fill_in_what_follows() -> None:
    """Without n_kv_heads every head has its own keys, and d_ff is 8/3 of the width, up to a multiple of 32."""
    config = ModelConfig(vocab_size=10, n_layers=1, d_model=100, n_heads=5)
    assert (config.kv_heads, config.head_width, config.ff_width) == (5, 20, 288)


def test_options_change_a_preset() -> None:
    """Options replace the preset's values, and what follows from them is computed again."""
    assert ModelOptions("92m").build() == PRESETS["92m"]
    tiny = ModelOptions("tiny")
    assert replace(tiny, d_model=512).build().ff_width == 1376
    assert replace(tiny, d_model=512, d_ff=100).build().ff_width == 100
    assert replace(tiny, n_heads=8).build().kv_heads == PRESETS["tiny"].kv_heads == 2
    assert replace(tiny, n_heads=1).build().kv_heads == 1
    assert tiny.build(vocab_size=1000).vocab_size == 1000
    assert replace(tiny, vocab_size=2000).build(vocab_size=1000).vocab_size == 2000
    assert tiny.build(seq_len=4096).max_seq_len == 4096
    assert replace(tiny, max_seq_len=8192).build(seq_len=4096).max_seq_len == 8192
    assert ModelOptions("1b", tie_embeddings=True).build().tie_embeddings
    yarn = replace(tiny, rope_scaling="yarn", rope_factor=4.0, rope_original_seq_len=512, max_seq_len=2048)
    assert yarn.build().rope_scaling == RopeScaling("yarn", 4.0, 512)


@pytest.mark.parametrize(
    ("options", "vocab_size", "message"),
    [
        (ModelOptions(preset="huge"), None, f"model.preset=huge: unknown, choose one of {', '.join(PRESETS)}"),
        (ModelOptions(vocab_size=100), 101, "model.vocab_size=100: the data's vocabulary has 101 ids"),
        (ModelOptions("tiny", n_heads=7), None, "model.n_heads=7"),
    ],
)
def test_impossible_options_are_refused(options: ModelOptions, vocab_size: int | None, message: str) -> None:
    """An unknown preset, a vocabulary smaller than the data's or an impossible shape is refused by name."""
    with pytest.raises(UserError, match=message):
        options.build(vocab_size)
