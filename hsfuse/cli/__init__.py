"""Command line: parses, calls the workflow of the same name, prints the result."""
