"""The protocols of the server: each file converts the bodies of one kind of client."""
