"""Models by name, and pictures as their pixels."""
