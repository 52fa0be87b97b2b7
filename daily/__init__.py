"""New speech every day, and a model that keeps up with it: commands that run the other packages' commands."""
