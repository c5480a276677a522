"""From texts and chats to the stores that training reads."""
