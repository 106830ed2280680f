"""How invariance is measured: pure JAX on functions and arrays, no flax."""
