"""Other trainers of the same shape, each as a function that does one optimizer step at its usual best settings.

    PEERS[name](shape, batch, seq_len, device, dtype) -> step()

transformers   LlamaForCausalLM with its fastest attention and fused AdamW
trainer        the same model under transformers' Trainer, dataset and collator included
litgpt         its GPT with a Llama's configuration
nanogpt        a GPT-2-style model written for this benchmark: LayerNorm, learned positions, GELU of 4 x width
nanochat       a model in nanochat's style, too: norms without weights, also of queries and keys, ReLU^2 of 4 x width,
               an output layer of its own, logits kept within 15

Everyone clips gradients to norm 1 and uses autocast for bfloat16. litgpt is measured where it is installed.
Those of COMPILED also take `compiled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.training.bounds import Make, Step

if TYPE_CHECKING:
    import torch

    from babyllm.model.config import ModelConfig


def transformers(
    shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Step:
    """Transformers' Llama, called directly."""
    model = llama(shape, seq_len, best_attention(device, dtype)).to(device)
    tokens = _tokens(shape, batch, seq_len, device)
    return _loop(model, lambda: model(input_ids=tokens, labels=tokens).loss, device, dtype, compiled)


def litgpt(shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype) -> Step:
    """Litgpt's GPT with its chunked cross-entropy."""
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=seq_len,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_query_groups=shape.kv_heads,
        n_embd=shape.d_model,
        intermediate_size=shape.ff_width,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config).to(device)
    model.apply(_initialise)
    if shape.tie_embeddings:
        model.lm_head.weight = model.transformer.wte.weight
    tokens = _tokens(shape, batch, seq_len + 1, device)
    return _loop(
        model, lambda: chunked_cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], chunk_size=0), device, dtype
    )


def nanogpt(
    shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Step:
    """A GPT-2-style model: no rotary positions, no gate, as many key heads as heads."""
    from torch import nn
    from torch.nn import functional as F

    width, n_heads = shape.d_model, shape.n_heads

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (
                y.view(*y.shape[:2], n_heads, -1).transpose(1, 2) for y in self.qkv(self.norm_1(x)).split(width, dim=2)
            )
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
            fed: torch.Tensor = self.down(F.gelu(self.up(self.norm_2(x))))
            return x + fed

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.positions = nn.Embedding(shape.vocab_size, width), nn.Embedding(seq_len, width)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(shape.n_layers)), nn.LayerNorm(width)
            self.head = nn.Linear(width, shape.vocab_size, bias=False)
            if shape.tie_embeddings:
                self.head.weight = self.embed.weight

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            h = self.embed(x) + self.positions.weight
            for block in self.blocks:
                h = block(h)
            loss: torch.Tensor = F.cross_entropy(self.head(self.norm(h)).flatten(0, 1), y.flatten())
            return loss

    model = Model().to(device)
    model.apply(_initialise)
    tokens = _tokens(shape, batch, seq_len + 1, device)
    return _loop(model, lambda: model(tokens[:, :-1], tokens[:, 1:]), device, dtype, compiled)


def nanochat(
    shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Step:
    """A model in nanochat's style: rotary positions, no gate, no weights in norms."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, n_heads, n_kv_heads, head_dim = shape.d_model, shape.n_heads, shape.kv_heads, shape.head_width
    angles = torch.outer(torch.arange(seq_len), shape.rope_theta ** -(torch.arange(0, head_dim, 2) / head_dim))
    cos, sin = angles.cos().to(device)[:, None], angles.sin().to(device)[:, None]

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:])

    def rotated(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cos + right * sin, right * cos - left * sin], dim=-1).type_as(x)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
            self.k, self.v = (nn.Linear(width, n_kv_heads * head_dim, bias=False) for _ in range(2))
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normed = norm(x)
            q, k, v = (layer(normed).unflatten(-1, (-1, head_dim)) for layer in (self.q, self.k, self.v))
            q, k, v = norm(rotated(q)).transpose(1, 2), norm(rotated(k)).transpose(1, 2), v.transpose(1, 2)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=n_heads != n_kv_heads)
            x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
            fed: torch.Tensor = self.down(F.relu(self.up(norm(x))).square())
            return x + fed

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(shape.vocab_size, width)
            self.blocks = nn.ModuleList(Block() for _ in range(shape.n_layers))
            self.head = nn.Linear(width, shape.vocab_size, bias=False)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            h = norm(self.embed(x))
            for block in self.blocks:
                h = block(h)
            logits = 15 * torch.tanh(self.head(norm(h)).float() / 15)
            loss: torch.Tensor = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            return loss

    model = Model().to(device)
    model.apply(_initialise)
    tokens = _tokens(shape, batch, seq_len + 1, device)
    return _loop(model, lambda: model(tokens[:, :-1], tokens[:, 1:]), device, dtype, compiled)


def trainer(shape: ModelConfig, batch: int, seq_len: int, device: torch.device, dtype: torch.dtype) -> Step:
    """Transformers' Trainer; its loop runs in a generator that stops after each optimizer step."""
    import tempfile
    import threading

    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, rows = llama(shape, seq_len), _tokens(shape, 4096, seq_len, torch.device("cpu"))
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            go.acquire()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            done.release()

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        max_steps=1_000_000,
        bf16=dtype is torch.bfloat16,
        use_cpu=device.type == "cpu",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in rows]
    running = Trainer(model, arguments, train_dataset=data, callbacks=[Turns()])
    threading.Thread(target=running.train, daemon=True).start()

    def step() -> None:
        go.release()
        done.acquire()

    return step


PEERS: dict[str, Make] = {
    "transformers": transformers,
    "trainer": trainer,
    "litgpt": litgpt,
    "nanogpt": nanogpt,
    "nanochat": nanochat,
}
COMPILED = ("transformers", "nanogpt", "nanochat")


def llama(shape: ModelConfig, seq_len: int, attention: str = "sdpa") -> Any:
    """Transformers' Llama of a shape, with rotary positions for `seq_len` tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from babyllm.interop.hf_config import config_to_json

    values = config_to_json(replace(shape, max_seq_len=seq_len), None)
    return LlamaForCausalLM(LlamaConfig(**values | {"use_cache": False, "attn_implementation": attention}))


def best_attention(device: torch.device, dtype: torch.dtype) -> str:
    """Transformers' fastest attention here: flash-attn where it is installed and can run, else PyTorch's."""
    from importlib.util import find_spec

    has_flash = device.type == "cuda" and dtype.itemsize == 2 and find_spec("flash_attn")
    return "flash_attention_2" if has_flash else "sdpa"


def _tokens(shape: ModelConfig, batch: int, seq_len: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.randint(3, shape.vocab_size, (batch, seq_len), device=device)


def _initialise(module: Any) -> None:
    """Small normal weights: PyTorch's own embeddings are so large that tied logits overflow into slow numbers."""
    import torch

    if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
        torch.nn.init.normal_(module.weight, std=0.02)


def _loop(
    model: Any, loss: Callable[[], Any], device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Step:
    """A step of a plain loop around a model."""
    import torch

    if compiled:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def installed() -> Iterator[str]:
    """Names of the peers that can be imported here."""
    from importlib.util import find_spec

    packages = {"trainer": "accelerate", "nanogpt": "torch", "nanochat": "torch"}  # others have their own name
    return (name for name in PEERS if find_spec(packages.get(name, name)))
