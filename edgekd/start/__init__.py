"""Start: `edgekd init`. Finds the data sets of a folder, looks at their samples, and writes a first recipe."""
