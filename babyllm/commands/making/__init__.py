"""Commands that make and mend data for fine-tuning."""
