"""reward=rules: a written reward made of words, lengths, patterns, form and repetition."""
