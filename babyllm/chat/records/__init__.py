"""The meaning of a record in a chat file: its fields, its shape, and the messages in it."""
