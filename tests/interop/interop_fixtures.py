"""Texts on which tokenizers differ most easily."""

TEXTS = [
    "Hello world, it's 2024!  Fine.\n\ndef f(x):\n\treturn x[1:]  # ok",
    "今天天气很好，我们去公园看书。\n\n他说：“明年再来！”",
    "😀 emoji 👩‍👩‍👧 é a\u0301 \u00a0 x\r\n\r\n  y",
    "<|im_start|>user\nHi<|im_end|> <s>a</s> <think>x</think>",
    " before, after ",
    "1234 ١٢٣ Ⅷ ½ x² 'S 'LL",
]
