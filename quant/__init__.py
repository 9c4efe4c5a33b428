"""Block quantisation in MatMulNBits' layout: methods, packing, and recipes that say which tensor gets which bits."""
