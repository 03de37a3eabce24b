"""model=tiny: a Llama-style model from scratch, with a tokenizer trained on the data."""
