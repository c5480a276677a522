"""The commands `babyllm COMMAND`, one module each.

A module has `ARGUMENTS`, `Flags` and `run(flags, *arguments)`; the module of a training stage has `ARGUMENTS` and
`main(argv)`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from babyllm.config.values import AnyCount, Finite, PathText, Positive, Rate, Seed, Share
from babyllm.runtime import Runtime
from babyllm.runtime.precision import dtype_name, reads_in

if TYPE_CHECKING:
    from babyllm.generation.constraints.constraint import Constraint
    from babyllm.loading import ChatModel


@dataclass(frozen=True)
class SamplingFlags:
    """Flags of commands that draw answers.

    Attributes:
        max_new_tokens: largest number of tokens of an answer.
        temperature: randomness of the draws; 0 takes the most probable token each time.
        top_k: number of most probable tokens that are kept; 0 and null keep all.
        top_p: total probability of the tokens that are kept, which are the most probable ones; null keeps all.
        min_p: least probability of a token that is kept, as a share of that of the most probable one.
        repetition_penalty: factor that makes tokens that were already read or written less probable, if above 1.
        frequency_penalty: number subtracted from a token's score each time that the answer holds it.
        presence_penalty: number subtracted once from the score of each token that the answer holds.
        schema: JSON schema that the answer fits, as a file or as JSON; null for none.
        regex: regular expression that the whole answer matches; null for none.
        choices: list of texts of which the answer is one.
        grammar: file of a grammar that the answer follows, in llguidance's dialect of Lark; null for none.
        seed: seed of the draws; null draws differently each time.
    """

    max_new_tokens: AnyCount = 200
    temperature: Rate = 0.8
    top_k: AnyCount | None = 50
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: Positive = 1.0
    frequency_penalty: Finite = 0.0
    presence_penalty: Finite = 0.0
    schema: str | None = None
    regex: str | None = None
    choices: list[str] = field(default_factory=list)
    grammar: PathText | None = None
    seed: Seed | None = None

    def settings(self) -> dict[str, Any]:
        """The values of these flags as arguments of `babyllm.generation.Sampling`."""
        own = ("schema", "regex", "choices", "grammar")
        values = {one.name: getattr(self, one.name) for one in fields(SamplingFlags) if one.name not in own}
        return values | {"constraint": self.constraint()}

    def constraint(self) -> Constraint | None:
        """What an answer may say, by these flags.

        Raises:
            UserError: a file cannot be read, a flag is not valid, or several of them are given.
        """
        from babyllm.generation.constraints.constraint import Constraint

        return Constraint.of_options(self, "--")


def read_as_chosen(runtime: Runtime) -> AbstractContextManager[Any]:
    """The context in which a command runs a model; a line on stderr names the dtype if it is not float32."""
    name = dtype_name(runtime.reading_dtype)
    if name != "float32" and runtime.is_main:
        note(f"products in {name}; --runtime.dtype=float32 is exact")
    return reads_in(runtime.device, runtime.reading_dtype)


def note_base_model(chat: ChatModel, directory: str) -> None:
    """Print a line on stderr if the model is a base model, which was not trained to answer."""
    if not chat.has_learned:
        note(f"{directory} has no chat template: a base model, which was not taught to answer; using chatml")


def note(text: str) -> None:
    """Print a line on stderr, separate from a command's output."""
    print(f"({text})", file=sys.stderr, flush=True)
