"""GGUF, the model files of llama.cpp, read and written without other libraries."""
