"""`gridwright cas`: looks after the blobs of a directory or of an endpoint.

An endpoint is spoken to in the protocol of build tools (``endpoint.py``). A directory is the
CAS's own affair: its service is started as a process that works on it (``directory.py``).
"""
