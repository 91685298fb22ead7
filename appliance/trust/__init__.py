"""A client's side of TLS: which registry is meant, what it shows, and whom the clients here believe."""
