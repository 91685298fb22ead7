"""The rules of the distribution API, decided from bytes and state; nothing here waits."""
