"""What authors of backends and handlers test with."""
