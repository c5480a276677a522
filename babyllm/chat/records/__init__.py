"""What a record of a chat file means: its fields, which shape they have, and the messages in them."""
