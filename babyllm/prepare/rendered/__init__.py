"""Chats rendered into ids on all cores: what conversations and pairs have in common."""
