"""POST /tokenize and POST /detokenize, in the form of vLLM."""
