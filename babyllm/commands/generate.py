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
        min_p: keep tokens at least this many times as probable as the most probable one.
        repetition_penalty: above 1 makes what was already read or written less probable.
        stop: texts that end the answer and are not printed.
        num_beams: above 1 searches for the most probable text among this many, draws nothing and prints it at the end.
        length_penalty: of the beam search; above 0 favours long texts.
        seed: of the draws; null draws differently each time.
        int8: hold the weights in 8 bits, which takes a quarter of the memory and changes answers slightly.
        runtime: device and dtype.
    """

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    length_penalty: float = 1.0
    seed: int | None = None
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str, prompt: str = "") -> None:
    """Print the prompt and, as it is drawn, the text a model goes on with."""
    from babyllm.generation import generate, stream
    from babyllm.loading import load

    with start(flags.runtime) as runtime:
        model, tokenizer = load(directory, int8=flags.int8)
        model.to(runtime.device)
        print(prompt, end="", flush=True)
        with runtime.autocast():
            if flags.num_beams != 1:
                settings = {"max_new_tokens": flags.max_new_tokens, "stop": flags.stop}
                beams, penalty = flags.num_beams, flags.length_penalty
                print(generate(model, tokenizer, prompt, n=1, num_beams=beams, length_penalty=penalty, **settings))
                return
            pieces = stream(
                model,
                tokenizer,
                prompt,
                max_new_tokens=flags.max_new_tokens,
                temperature=flags.temperature,
                top_k=flags.top_k,
                top_p=flags.top_p,
                min_p=flags.min_p,
                repetition_penalty=flags.repetition_penalty,
                seed=flags.seed,
                stop=flags.stop,
            )
            for piece in pieces:
                print(piece, end="", flush=True)
                if runtime.stop_requested:
                    break
        print()
