"""From images to probabilities, with a trained model."""
