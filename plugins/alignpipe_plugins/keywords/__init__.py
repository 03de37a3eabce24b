"""reward=keywords: a written rule that counts wanted and unwanted words and watches the length."""
