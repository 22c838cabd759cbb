"""What networks have learned, read from their layers."""
