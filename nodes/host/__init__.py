"""What the nodes share, and all that touches the host's internals."""
