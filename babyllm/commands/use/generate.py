"""Print the prompt and its continuation by a model, token by token.

The prompt `-` is read from stdin. A prompt that begins with a dash is written after `--`:

    babyllm generate RUN_DIR - < FILE            babyllm generate RUN_DIR --seed=1 -- "-1 + 1 ="
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from babyllm.commands import SamplingFlags, read_as_chosen
from babyllm.config.values import Count, Few, Finite
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, ordinary_signals, start

ARGUMENTS = "RUN_DIR [PROMPT]"
STDIN = "-"


@dataclass(frozen=True)
class Flags(SamplingFlags):
    """Flags of `babyllm generate`.

    Attributes:
        stop: string, or [several], that ends the text and is not printed.
        n: number of continuations, one after the other; several are not streamed.
        max_length: largest number of tokens of prompt and continuation together; null for the model's context.
        num_beams: number of beams; above 1 selects beam search, which does not sample and prints its result at the end.
        length_penalty: exponent of the length in the beam search; above 0 favours long texts.
        int8: whether to store all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    stop: str | list[str] = field(default_factory=list)
    n: Few = 1
    max_length: Count | None = None
    num_beams: Few = 1
    length_penalty: Finite = 1.0
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str, prompt: str = "") -> None:
    """Print the prompt and its continuation by a model, token by token.

    Raises:
        UserError: the model cannot be loaded, the prompt is too long, or a flag is out of range.
    """
    if flags.num_beams == 1 and flags.length_penalty != 1:
        raise UserError(f"--length_penalty={flags.length_penalty:g}: is for beams; add --num_beams=4, or leave it out")
    prompt = _from_stdin() if prompt == STDIN else prompt
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        with leaving_at_once():
            from babyllm.generation import generate, stream
            from babyllm.loading import load

            model, tokenizer = load(directory, int8=flags.int8)
            model.to(runtime.device)
        settings = flags.settings() | {"stop": flags.stop, "max_length": flags.max_length}
        if flags.num_beams != 1 or flags.n != 1:
            found = generate(
                model,
                tokenizer,
                [prompt],
                n=flags.n,
                num_beams=flags.num_beams,
                length_penalty=flags.length_penalty,
                **settings,
            )
            print("\n\n".join(prompt + text for text in found))
            return
        pieces = stream(model, tokenizer, prompt, **settings)
        print(prompt + next(pieces, ""), end="", flush=True)  # errors are raised before anything is printed
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
        finally:
            print()


def _from_stdin() -> str:
    """The text on stdin, without the newline that `echo` adds.

    Raises:
        UserError: the text is not in the expected encoding.
    """
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"the input is not {error.encoding} text: save it in that encoding, or name its own in PYTHONIOENCODING"
        ) from None
