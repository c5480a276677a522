"""Functions that requests offer, calls in messages and answers, in the forms of chats and of responses."""
