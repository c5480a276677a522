"""Print the prompt and, as it is drawn, the text a model goes on with.

The prompt `-` stands for what is on stdin, and one that begins with a dash is given after `--`:

    babyllm generate RUN_DIR - < FILE            babyllm generate RUN_DIR --seed=1 -- "-1 + 1 ="
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from babyllm.commands import read_as_chosen
from babyllm.config.values import AnyCount, Few, Finite, Positive, Rate, Seed, Share
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, ordinary_signals, start

ARGUMENTS = "RUN_DIR [PROMPT]"
STDIN = "-"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm generate`.

    Attributes:
        max_new_tokens: at most this many.
        temperature: 0 takes the most probable token each time.
        top_k: keep this many of the most probable tokens; 0 and null keep all.
        top_p: keep the fewest most probable tokens that hold this probability.
        min_p: keep tokens at least this many times as probable as the most probable one.
        repetition_penalty: above 1 makes what was already read or written less probable.
        stop: a text, or [several], that ends the answer and is not printed.
        num_beams: above 1 searches for the most probable text among this many, draws nothing and prints it at the end.
        length_penalty: of the beam search; above 0 favours long texts.
        seed: of the draws; null draws differently each time.
        int8: hold all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    max_new_tokens: AnyCount = 200
    temperature: Rate = 0.8
    top_k: AnyCount | None = 50
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: Positive = 1.0
    stop: str | list[str] = field(default_factory=list)
    num_beams: Few = 1
    length_penalty: Finite = 1.0
    seed: Seed | None = None
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str, prompt: str = "") -> None:
    """Print the prompt and, as it is drawn, the text a model goes on with."""
    from babyllm.generation import generate, stream
    from babyllm.loading import load

    prompt = _from_stdin() if prompt == STDIN else prompt
    stop = (flags.stop,) if isinstance(flags.stop, str) else tuple(flags.stop)
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        model, tokenizer = load(directory, int8=flags.int8)
        model.to(runtime.device)
        if flags.num_beams != 1:
            text = generate(
                model,
                tokenizer,
                prompt,
                num_beams=flags.num_beams,
                length_penalty=flags.length_penalty,
                max_new_tokens=flags.max_new_tokens,
                repetition_penalty=flags.repetition_penalty,
                stop=stop,
            )
            print(prompt + text)
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
            stop=stop,
        )
        print(prompt + next(pieces, ""), end="", flush=True)  # what is wrong is told before anything is printed
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
        finally:
            print()


def _from_stdin() -> str:
    """The text on stdin, without the line's end that `echo` puts after it.

    Raises:
        UserError: it is not in the encoding that is expected.
    """
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the input is not {error.encoding} text: save it so, or name its encoding in PYTHONIOENCODING"
        ) from None
