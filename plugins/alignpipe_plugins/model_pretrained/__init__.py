"""model=pretrained: any causal language model of the Hugging Face hub or a local folder, with LoRA if wanted."""
