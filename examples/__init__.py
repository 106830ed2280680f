"""Networks that were not written for this project, and how to measure them."""
