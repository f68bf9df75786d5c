"""Files: atomic writes, bounded reads, checks of outputs, hashes. The bottom of the project; it imports only `errors`."""
