"""A model in a script: it fills the JSON form that a prompt ends with, quotes its document, and calls its tool."""

import hashlib
import json
import re
import time
from typing import Any

from fake_endpoint import Answer, cut, drips, fails, hangs_up, says

WORDS = {
    language: words.split()
    for language, words in {
        "en": "river stone lamp garden winter market bridge letter cloud engine harbour violin paper candle forest",
        "zh": "河流 石头 台灯 花园 冬天 市场 桥梁 书信 云朵 发动机 港口 小提琴 纸张 蜡烛 森林 山谷 铁路 面包",
    }.items()
}


def number_of(text: str, salt: str = "") -> int:
    return int.from_bytes(hashlib.sha256(f"{salt}{text}".encode()).digest()[:8], "big")


def saying(seed: str, language: str, n: int = 12) -> str:
    """A text that depends on the seed alone and resembles no other."""
    words = [WORDS[language][number_of(seed, f"{i} ") % len(WORDS[language])] for i in range(n)]
    marks = "".join(chr((0x4E00 if language == "zh" else 97) + number_of(seed, f"m{i}") % 20) for i in range(9))
    return "".join(words) + marks if language == "zh" else f"{' '.join(words)} {marks}"


def honest(prompt: str, sample: int = 0) -> str:
    """What a good model would write: the text of a reply."""
    language = "zh" if re.search("[\u4e00-\u9fff]", prompt) else "en"
    seed = f"{prompt} {sample}"
    document = found[1].strip() if (found := re.search(r"<document>\n(.*?)</document>", prompt, re.DOTALL)) else ""
    for line in prompt.split("\n"):
        if not line.startswith('{"') or "JSON" not in prompt:
            continue
        form: dict[str, Any] = json.loads(line)
        value = {name: _filled(name, one, seed, language) for name, one in form.items()}
        if "code" in form:
            wrong = number_of(seed) % 8 == 0
            value |= {"code": "```python\ndef f(x):\n    return x + 1\n```", "tests": f"assert f(1) == {2 + wrong}"}
        if "quote" in form:
            value["quote"] = document[:20]
        if "key" in form:
            value["answer"] = value["key"][-9:]
        if "call" in form:
            value["call"] = _call(prompt, form["call"]["name"])
        if "triples" in form:
            triple = {"subject": document[:4], "relation": "is", "object": document[-6:]}
            value["triples"] = [triple, {**triple, "object": "nowhere to be found"}]
        return f"Here it is:\n```json\n{json.dumps(value, ensure_ascii=False)}\n```"
    if "JSON" in prompt.split("\n")[0]:
        return json.dumps({"text": saying(seed, language)}, ensure_ascii=False)
    text = saying(seed, language)
    return f"- {text}" if "Markdown" in prompt.split("\n")[0] else text


def _filled(name: str, form: Any, seed: str, language: str) -> Any:
    if isinstance(form, list):
        return [saying(f"{seed} {name} {i}", language, 3 if name == "topics" else 12) for i in range(3)]
    if isinstance(form, dict):
        return {"state": "fine"}
    return 1 + number_of(seed) % 10 if isinstance(form, int) else saying(f"{seed} {name}", language)


def _call(prompt: str, name: str) -> dict[str, Any]:
    tools = json.loads(re.search(r"<tools>\n(.*)\n</tools>", prompt)[1])  # type: ignore[index]
    tool = next((tool["function"] for tool in tools if tool["function"]["name"] == name), None)
    if tool is None:
        return {"name": name, "arguments": {}}
    properties = tool["parameters"]["properties"]
    values = {key: _argument(properties[key]) for key in tool["parameters"]["required"]}
    return {"name": name, "arguments": values}


def _argument(schema: dict[str, Any]) -> Any:
    if schema["type"] == "array":
        return ["tea"]
    return "x" * schema.get("minLength", 1) if schema["type"] == "string" else max(1, schema.get("minimum", 1))


def answers(said: str) -> Answer:
    """An honest answer, another one for each seed of the request."""
    return lambda handler: says(honest(said, handler.body.get("seed", 0)))(handler)


def model(said: str, n: int) -> Answer:
    """An endpoint that always answers."""
    return answers(said)


def fault(said: str) -> str:
    """What a bad endpoint does with a prompt: what most models do, or one of the faults."""
    kinds = ("busy", "cut", "hangs up", "broken", "refused", "nonsense", "cut short", "long", "controls", "never", "")
    return kinds[min(number_of(said) % 25, len(kinds) - 1)]


def bad_model(said: str, n: int) -> Answer:
    """An endpoint that errs, stalls, limits, cuts, refuses and writes nonsense, always the same for a prompt."""
    kind = fault(said)
    passing = {"busy": fails(429, Retry_After="0"), "cut": cut, "hangs up": hangs_up, "broken": fails(500)}
    if kind in passing and n == 1:
        return passing[kind]
    lasting = {
        "refused": fails(400, "flagged"),
        "nonsense": says("} ]] <b>{{{prompt}} \\x \n" + "{[" * 400),
        "cut short": says(honest(said)[:20], "length"),
        "long": says("x" * 1_000_000),
        "controls": says(honest(said) + "\x1b[31m\x00\u202e"),
        "never": fails(503, Retry_After="0"),
    }
    return lasting.get(kind) or answers(said)


def stalling_model(said: str, n: int) -> Answer:
    """`bad_model` that at first sends some answers byte by byte."""
    return drips if n == 1 and number_of(said, "stall") % 7 == 0 else bad_model(said, n)


def slow_model(said: str, n: int) -> Answer:
    """`bad_model`, each answer of which takes a moment."""

    def answer(handler: Any) -> None:
        time.sleep(0.02 + number_of(said, "wait") % 30 / 1000)
        bad_model(said, n)(handler)

    return answer
