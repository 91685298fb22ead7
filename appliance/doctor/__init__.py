"""What goes wrong with a registry in practice, looked for from either side: its machine, and a client."""
