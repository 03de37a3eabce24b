"""reward=math_answer: 1 if the final number of a response is the reference's, 0 if not."""
