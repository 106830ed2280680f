"""What is measured: networks that return their activations by name."""
