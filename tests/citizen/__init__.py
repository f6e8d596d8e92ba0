"""What PyTorch's own tools ask of a differentiable op and of a module."""
