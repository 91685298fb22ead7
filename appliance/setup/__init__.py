"""Making systemd know an installation that came without a package of the system: pip's, or pipx's."""
