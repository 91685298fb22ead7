"""Where blobs live: in files, or in memory."""
