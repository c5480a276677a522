"""Calls of functions in what a model writes: their form, grammars that force them, and the calls in an answer's text.

template -> tool_format_of -> ToolFormat -> call_grammar -> Lark text
                                         -> AnswerParser.add(text) -> reasoning, content, calls
"""
