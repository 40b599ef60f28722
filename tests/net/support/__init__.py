"""Independent peers for scenarios with the whole daemon."""
