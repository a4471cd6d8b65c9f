"""Read seed files in their formats, and datasets of the hub."""
