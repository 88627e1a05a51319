"""Networks, and the path through them from images to logits and probabilities."""
