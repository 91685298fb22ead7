"""Who is known here, and how they prove it."""
