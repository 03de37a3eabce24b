"""reward=similarity: how near a response is to a reference text, by BLEU, chrF, ROUGE, WER or CER."""
