"""The control plane: commands, their dispatch and their description."""
