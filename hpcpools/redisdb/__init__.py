"""The only place that opens Redis: one given by address, or our own on a private unix socket.

Owns connections, key names, the private runtime directory and the embedded server. Refuses open TCP.
"""
