"""The entries of the catalogue, a module a kind of dataset."""
