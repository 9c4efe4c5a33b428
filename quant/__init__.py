"""Block quantisation in MatMulNBits' layout: methods, packing, and recipes of bits by tensor."""
