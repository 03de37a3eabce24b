"""sft=standard: supervised fine-tuning on demonstrations."""
