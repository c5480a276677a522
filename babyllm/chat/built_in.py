"""The chat templates of the package, as Jinja texts. None of them changes the content of a message.

The text between `{#separator#}` and `{#end#}` separates an answer's end token from the next turn. With efficient_eos
that text is left out, and the end token alone separates them.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

ALPACA_HEAD = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
ALPACA_HEAD_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)

CHATML = r"""
{%- set seen = namespace(tools=false) %}
{%- if tools %}
    {%- set seen.tools = true %}
    {{- '<|im_start|>system\n' }}
    {%- if messages and messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\n\n' }}
    {%- endif %}
    {{- '# Tools\n\nYou may call these functions, whose signatures are JSON in <tools></tools>:\n<tools>\n' }}
    {%- for tool in tools %}
        {{- tool | tojson + '\n' }}
    {%- endfor %}
    {{- '</tools>\n\nA call is a JSON object with name and arguments in <tool_call></tool_call>:\n<tool_call>\n' }}
    {{- '{"name": <function-name>, "arguments": <arguments-object>}\n</tool_call><|im_end|>' }}
    {#separator#}
    {{- '\n' }}
    {#end#}
{%- endif %}
{%- for message in (messages[1:] if tools and messages and messages[0]['role'] == 'system' else messages) %}
    {{- '<|im_start|>' + message['role'] + '\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- if message['tool_calls'] %}
            {%- set seen.tools = true %}
        {%- endif %}
        {%- generation %}
            {{- message['content'] }}
            {%- for call in message['tool_calls'] or [] %}
                {{- '' if loop.first and not message['content'] else '\n' }}
                {{- '<tool_call>\n{"name": ' + call['function']['name'] | tojson }}
                {{- ', "arguments": ' + call['function']['arguments'] | tojson + '}\n</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- elif message['role'] == 'tool' and seen.tools %}
        {{- '<tool_response>\n' + message['content'] + '\n</tool_response><|im_end|>' }}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {#separator#}
    {{- '\n' }}
    {#end#}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# What CHATML was before calls had a form of their own; runs of that time have it stored.
CHATML_WITHOUT_CALLS = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {#separator#}
    {{- '\n' }}
    {#end#}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

LLAMA3 = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

LLAMA2 = r"""
{{- bos_token }}
{%- set has_system = messages and messages[0]['role'] == 'system' %}
{%- for message in (messages[1:] if has_system else messages) %}
    {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}
        {{- raise_exception('user and assistant must take turns, after at most one system message') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {#separator#}
        {%- if not loop.first %}
            {{- bos_token }}
        {%- endif %}
        {#end#}
        {{- '[INST] ' }}
        {%- if loop.first and has_system %}
            {{- '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' }}
        {%- endif %}
        {{- message['content'] + ' [/INST]' }}
    {%- else %}
        {%- generation %}
            {{- ' ' + message['content'] + eos_token }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""

ALPACA = r"""
{%- if not messages or messages[0]['role'] != 'system' %}
    {{- 'Below is an instruction that describes a task' }}
    {%- if messages and messages[0]['input'] %}
        {{- ', paired with an input that provides further context' }}
    {%- endif %}
    {{- '. Write a response that appropriately completes the request.\n\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not loop.first and messages[loop.index0 - 1]['role'] != 'assistant' %}
        {{- '\n\n' }}
    {%- endif %}
    {%- if message['role'] == 'assistant' %}
        {{- '### Response:' }}
        {%- generation %}
            {{- message['content'] + eos_token }}
        {%- endgeneration %}
        {#separator#}
        {%- if not loop.last %}
            {{- '\n\n' }}
        {%- endif %}
        {#end#}
    {%- elif message['role'] == 'system' %}
        {{- message['content'] }}
    {%- elif message['role'] == 'user' %}
        {{- '### Instruction:\n' + message['content'] }}
        {%- if message['input'] %}
            {{- '\n\n### Input:\n' + message['input'] }}
        {%- endif %}
    {%- else %}
        {{- '### ' + message['role'] | capitalize + ':\n' + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\n\n### Response:' }}
{%- endif %}
"""

PLAIN = r"""
{%- if not bos_token %}
    {{- raise_exception('it needs a tokenizer with a bos token') }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- bos_token }}
        {%- generation %}
            {{- message['content'] + eos_token }}
        {%- endgeneration %}
    {%- else %}
        {%- if not loop.first and messages[loop.index0 - 1]['role'] != 'assistant' %}
            {{- '\n' }}
        {%- endif %}
        {{- message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- bos_token }}
{%- endif %}
"""

TEXTS = {"chatml": CHATML, "llama3": LLAMA3, "llama2": LLAMA2, "alpaca": ALPACA, "plain": PLAIN}
EARLIER = {"chatml": CHATML_WITHOUT_CALLS}


# Put before a template's text to add a system message to conversations without one.
_SYSTEM = (
    "{%- if not messages or messages[0]['role'] != 'system' %}\n    {%- set messages = [{'role': 'system', 'content': ",
    "}] + messages %}\n{%- endif %}\n",
)


class BuiltIn(NamedTuple):
    """A built-in template with its settings.

    Attributes:
        name: chatml, llama3, llama2, alpaca or plain.
        efficient_eos: whether only the end token separates an answer from the next turn.
        default_system: the system message of conversations without one; empty for none.
        is_earlier: whether it is the text that the template had when the run was trained.
    """

    name: str
    efficient_eos: bool = False
    default_system: str = ""
    is_earlier: bool = False

    def text(self) -> str:
        """The Jinja text, as it is stored with a tokenizer."""
        kept = "" if self.efficient_eos else r"\1"
        source = (EARLIER if self.is_earlier else TEXTS)[self.name]
        text = re.sub(r"\s*\{#separator#\}(.*?)\s*\{#end#\}", kept, source, flags=re.DOTALL).strip()
        # Jinja's strings have the escapes of JSON's.
        return json.dumps(self.default_system, ensure_ascii=False).join(_SYSTEM) + text if self.default_system else text


def built_in_of(text: str) -> BuiltIn | None:
    """The built-in template, with its settings, whose text this is; None for any other text."""
    head, tail = _SYSTEM
    system = ""
    if text.startswith(head):
        try:
            system, end = json.JSONDecoder().raw_decode(text, len(head))
        except ValueError:
            return None
        text = text[end:].removeprefix(tail)
    possible = (
        BuiltIn(name, efficient_eos, is_earlier=texts is EARLIER)
        for texts in (TEXTS, EARLIER)
        for name in texts
        for efficient_eos in (False, True)
    )
    found = next((one for one in possible if one.text() == text), None)
    return found._replace(default_system=str(system)) if found else None
