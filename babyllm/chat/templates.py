"""The chat templates that come with the package, as Jinja texts. None of them changes what a message says.

What lies between `{#separator#}` and `{#end#}` separates an answer's end token from the next turn; with efficient_eos
it is left out, and the end token itself separates them.
"""

from __future__ import annotations

import re

ALPACA_HEAD = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
ALPACA_HEAD_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)

CHATML = r"""
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
        {{- raise_exception('user and assistant must take turns, behind at most one system message') }}
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
    {{- 'Below is an instruction that describes a task. ' }}
    {{- 'Write a response that appropriately completes the request.\n\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not loop.first and messages[loop.index0 - 1]['role'] != 'assistant' %}
        {{- '\n\n' }}
    {%- endif %}
    {%- if message['role'] == 'assistant' %}
        {{- '### Response:\n' }}
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
    {%- else %}
        {{- '### ' + message['role'] | capitalize + ':\n' + message['content'] }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\n\n### Response:\n' }}
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


def built_in(name: str, efficient_eos: bool = False) -> str:
    """Jinja text of a built-in template, as it is stored with a tokenizer."""
    kept = "" if efficient_eos else r"\1"
    return re.sub(r"\s*\{#separator#\}(.*?)\s*\{#end#\}", kept, TEXTS[name], flags=re.DOTALL).strip()
