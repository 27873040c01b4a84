"""Large scenes with raster or vector labels, read by windows: nothing is cut to disk."""
