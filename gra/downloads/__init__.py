"""Downloads: the cache folder, wheels from a package index, and the model hub."""
