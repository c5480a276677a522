"""Reading and writing the formats of other projects: Hugging Face models and peft adapters."""
