"""Report and comparison pages."""
