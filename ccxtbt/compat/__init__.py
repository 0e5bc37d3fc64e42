"""The specification's and the old packages' other names, thin over the rooms that do the work."""
