"""Convolution and its gradients by loops of our own, compiled by LLVM.

XLA computes a convolution on a CPU at two thirds of the rate of a matrix
product, and its kernel's gradient at a third, so that training without pooling
is no faster than PyTorch. Here both run at the rate of a matrix product.

The loops are written with llvmlite in LLVM's own language, because nothing else
says that sums stay in registers, and compiled in half a second when they are
first needed:

* `writer` makes that language readable;
* `tiles` are the innermost loops;
* `images` goes over an image with them;
* `calls` is what XLA calls: it reads XLA's description of the arrays, and
  shares the images among XLA's threads.

`models.native` decides when they are used. Nothing here imports jax.
"""
