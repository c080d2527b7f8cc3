"""Works on the directory of a segment store, beside the services that use it or without them.

``python -m gridwright_cas.maintenance COMMAND DIRECTORY …`` is a process that `gridwright cas`
starts. It says what it does as lines of JSON on stdout, each an object with one key (``messages.py``).
Between any two of its steps it may be killed: each is a transaction of the engine.
"""
