"""Files: atomic writes, bounded reads, checks of outputs, hashes. The project's bottom; it imports only `errors`."""
