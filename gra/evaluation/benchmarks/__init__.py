"""The benchmark catalog: download, read and convert items."""
