"""The model in PyTorch, as it is traced: layers, the operators that are fused, the mel front end."""
