"""Conversations as text and as token ids: messages, record formats, chat templates and supervision.

record -> formats -> Conversation -> ChatTemplate.render -> ids, and the supervised turn that each id belongs to
"""
