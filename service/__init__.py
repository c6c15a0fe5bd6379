"""The doors: the command line, the Python API, and the stack that they stand on."""
