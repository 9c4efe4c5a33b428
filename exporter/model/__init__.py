"""The model in PyTorch, as it is traced: layers, fused operators, the mel front end."""
