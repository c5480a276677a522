"""The steps of a recipe: prompts, requests, replies, and functions of items."""
