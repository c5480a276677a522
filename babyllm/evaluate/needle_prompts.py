"""The prompts of a needle test: a fact at a depth of a text, the question, and values of which one is right."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import USER, Message
from babyllm.errors import UserError
from babyllm.evaluate.needle_config import NeedleConfig
from babyllm.tokenizer import Tokenizer

N_VALUES = 10
"""Number of values of which one is right."""
_SENTENCE = re.compile(r".+?(?:[。！？!?]+[”’」』]*|\.(?=\s)|\n|$)\s*", re.DOTALL)


class _Wording(NamedTuple):
    """The words of a language.

    Attributes:
        fact: sentence with the value.
        cue: beginning of that sentence, which a base model continues.
        question: question to a chat model.
        lead: text between the cue and the value.
        end: text after the value.
        names: parts of names, one of each list.
        filler: sentences for a user without a text.
    """

    fact: str
    cue: str
    question: str
    lead: str
    end: str
    names: tuple[Sequence[str], ...]
    filler: str


_WORDINGS = {
    "zh": _Wording(
        fact="{name}的通行码是{value}。",
        cue="{name}的通行码是",
        question="根据上文，{name}的通行码是多少？请只回答号码。",
        lead="",
        end="。",
        names=("赵钱孙李周吴郑王冯陈", "明文志晓国春海建玉永", "华伟芳娟军强平霞峰兰"),
        filler="早晨的街道很安静，只有几家店开了门。河边的树叶慢慢变黄，风一吹就落到水面上。"
        "孩子们放学以后喜欢在广场上踢球。老人坐在门口喝茶，谈起从前的日子。市场里的蔬菜很新鲜，价钱也不贵。"
        "下雨的时候，屋檐下站满了躲雨的人。图书馆的灯一直亮到很晚。山上的小路通向一座旧庙，香客不多。"
        "火车经过村子的时候，狗总要叫几声。晚饭以后，大家出来散步，看天上的星星。",
    ),
    "en": _Wording(
        fact="The pass number of {name} is {value}.",
        cue="The pass number of {name} is",
        question="According to the text above, what is the pass number of {name}? Answer with the number alone.",
        lead=" ",
        end=".",
        names=(
            ("Alden ", "Berit ", "Corin ", "Dalia ", "Edgar ", "Freda ", "Gavin ", "Hedda ", "Ivor ", "Joyce "),
            ("Abbot", "Barlow", "Carver", "Dalton", "Ellis", "Fenwick", "Garner", "Harlow", "Irving", "Jarvis"),
        ),
        filler="The street was quiet in the morning, and few shops were open. Leaves turned yellow along the river and "
        "fell on the water. After school children played ball in the square. An old man drank tea at his door and "
        "spoke of former days. The vegetables on the market were fresh and cheap. When it rained, people waited under "
        "the roofs. The lights of the library were on until late. A small path led up the hill to an old church. "
        "The dogs barked whenever a train passed the village. After supper everybody went out to see the stars. ",
    ),
}


class Needle(NamedTuple):
    """A prompt with a fact.

    Attributes:
        ids: ids of the prompt, up to where the answer begins.
        values: right value, and then those that are not in the prompt.
        options: ids of each value as the continuation of the prompt.
    """

    ids: tuple[int, ...]
    values: tuple[str, ...]
    options: tuple[tuple[int, ...], ...]


class NeedlePrompts:
    """Makes prompts with a fact, for a model with this tokenizer."""

    def __init__(
        self, tokenizer: Tokenizer, config: NeedleConfig, text: str | None = None, template: ChatTemplate | None = None
    ) -> None:
        """Cut the text into sentences.

        Args:
            tokenizer: tokenizer of the model; with a template, that of the template.
            config: the prompts.
            text: text that surrounds the fact; None takes the sentences of the language.
            template: chat template that renders the prompt as a question; None has the model continue the text.

        Raises:
            UserError: the text is blank.
        """
        self._tokenizer, self._template, self._seed = tokenizer, template, config.seed
        self._words = _WORDINGS[config.language or "zh"]
        sentences = [match[0] for match in _SENTENCE.finditer(text or self._words.filler)]
        self._sentences = [sentence for sentence in sentences if sentence.strip()]
        if not self._sentences:
            raise UserError("needle.text: is blank; give a text of some sentences")
        self._lengths = [len(tokenizer.encode(sentence)) for sentence in self._sentences]

    def needle(self, length: int, depth: float, number: int) -> Needle:
        """A prompt of at most `length` ids, nearly as long, with a fact at a depth; a function of these and the seed.

        Raises:
            UserError: the length has no room for the fact and the question.
        """
        rng = random.Random(f"{self._seed} {length} {depth} {number}")
        name = "".join(map(rng.choice, self._words.names))
        values = tuple(map(str, rng.sample(range(10_000, 100_000), N_VALUES)))
        fact = self._words.fact.format(name=name, value=values[0])
        first = rng.randrange(len(self._sentences))
        n_sentences = self._n_sentences(first, length - len(self._ids([], 0, fact, name)))
        while n_sentences >= 0:
            sentences = [self._sentences[(first + i) % len(self._sentences)] for i in range(n_sentences)]
            ids = self._ids(sentences, depth, fact, name)
            if len(ids) <= length:
                lead = "" if self._template else self._words.lead
                options = (self._tokenizer.encode(f"{lead}{value}{self._words.end}") for value in values)
                return Needle(tuple(ids), values, tuple(map(tuple, options)))
            n_sentences -= 1  # ids of a whole text may be more than those of its sentences
        raise UserError(f"needle.lengths={length}: has no room for the fact and the question; give more tokens")

    def _n_sentences(self, first: int, budget: int) -> int:
        n = 0
        while budget >= (cost := self._lengths[(first + n) % len(self._lengths)]):
            budget -= max(1, cost)
            n += 1
        return n

    def _ids(self, sentences: Sequence[str], depth: float, fact: str, name: str) -> list[int]:
        """The ids of a prompt; the fact lies between two sentences."""
        at = self._place(sentences, depth)
        space = "" if self._words.lead == "" else " "
        text = "".join([*sentences[:at], fact, space, *sentences[at:]]).rstrip()
        if self._template:
            return self._template.prompt([Message(USER, f"{text}\n\n{self._words.question.format(name=name)}")])
        return [self._tokenizer.begin_id, *self._tokenizer.encode(f"{text}\n{self._words.cue.format(name=name)}")]

    @staticmethod
    def _place(sentences: Sequence[str], depth: float) -> int:
        """The number of sentences before the fact: those whose characters come nearest to the depth."""
        ends = np.cumsum([0, *map(len, sentences)])
        return int(np.abs(ends - depth * ends[-1]).argmin())
