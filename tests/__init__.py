"""A package, and not just a folder: Python would prefer any installed package of this name to a mere folder."""
