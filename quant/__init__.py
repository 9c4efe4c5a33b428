"""Block quantisation in MatMulNBits' layout.

Methods, packing, and recipes that say which tensor gets which bits.
"""
