"""Print the prompt and, as it is drawn, the text a model goes on with.

The prompt `-` stands for what is on stdin, and one that begins with a dash is given after `--`:

    babyllm generate RUN_DIR - < FILE            babyllm generate RUN_DIR --seed=1 -- "-1 + 1 ="
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from babyllm.commands import SamplingFlags, read_as_chosen
from babyllm.config.values import Few, Finite
from babyllm.console import leaving_at_once
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, ordinary_signals, start

ARGUMENTS = "RUN_DIR [PROMPT]"
STDIN = "-"


@dataclass(frozen=True)
class Flags(SamplingFlags):
    """Flags of `babyllm generate`.

    Attributes:
        stop: a text, or [several], that ends the answer and is not printed.
        num_beams: above 1 searches for the most probable text among this many, draws nothing and prints it at the end.
        length_penalty: exponent of the length in the beam search; above 0 favours long texts.
        int8: hold all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        runtime: device and dtype.
    """

    stop: str | list[str] = field(default_factory=list)
    num_beams: Few = 1
    length_penalty: Finite = 1.0
    int8: bool = False
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run(flags: Flags, directory: str, prompt: str = "") -> None:
    """Print the prompt and, as it is drawn, the text a model goes on with."""
    prompt = _from_stdin() if prompt == STDIN else prompt
    with start(flags.runtime) as runtime, ordinary_signals(), read_as_chosen(runtime):
        with leaving_at_once():
            from babyllm.generation import generate, stream
            from babyllm.loading import load

            model, tokenizer = load(directory, int8=flags.int8)
            model.to(runtime.device)
        settings = flags.settings() | {"stop": flags.stop}
        if flags.num_beams != 1:
            beams, penalty = flags.num_beams, flags.length_penalty
            text = generate(model, tokenizer, prompt, num_beams=beams, length_penalty=penalty, **settings)
            print(prompt + text)
            return
        pieces = stream(model, tokenizer, prompt, **settings)
        print(prompt + next(pieces, ""), end="", flush=True)  # an error comes before anything is printed
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
