"""Commands that make data for fine-tuning with models and from sessions, and mend them."""
