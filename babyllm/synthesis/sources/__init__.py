"""Where items come from: files of prompts and documents, the catalogue of tasks, topics, tools."""
