"""Print the prompt and, as it is drawn, the text a model goes on with."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.runtime import RuntimeConfig, start

ARGUMENTS = "RUN_DIR [PROMPT]"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm generate`.

    Attributes:
        max_new_tokens: at most this many.
        temperature: 0 takes the most probable token each time.
        top_k: keep this many of the most probable tokens; null keeps all.
        top_p: keep the fewest most probable tokens that hold this probability.
        seed: of the draws; null draws differently each time.
        runtime: device and dtype.
    """

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    seed: int | None = None
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str, prompt: str = "") -> None:
    """Print the prompt and, as it is drawn, the text a model goes on with."""
    from babyllm.generation import stream
    from babyllm.loading import load

    with start(flags.runtime) as runtime:
        model, tokenizer = load(directory)
        model.to(runtime.device)
        pieces = stream(
            model,
            tokenizer,
            prompt,
            max_new_tokens=flags.max_new_tokens,
            temperature=flags.temperature,
            top_k=flags.top_k,
            top_p=flags.top_p,
            seed=flags.seed,
        )
        print(prompt, end="", flush=True)
        with runtime.autocast():
            for piece in pieces:
                print(piece, end="", flush=True)
                if runtime.stop_requested:
                    break
        print()
