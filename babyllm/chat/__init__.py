"""Conversations as text and as ids: what a message is, file formats, templates, and what is supervised.

record -> formats -> Conversation -> ChatTemplate.render -> ids, and the turn that each supervised id belongs to
"""
