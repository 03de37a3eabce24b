"""reward=llm_judge: a language model behind an OpenAI-compatible endpoint as the judge."""
