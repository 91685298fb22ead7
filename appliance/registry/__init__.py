"""What a registry does, in terms of the ports it needs."""
