"""Works on the directory of an action cache, beside the services that use it (LMDB) or without them.

``python -m gridwright_actioncache.maintenance COMMAND DIRECTORY …`` is a process that `gridwright
ac` starts. It says what it does as lines of JSON on stdout, each an object with one key:
``progress`` (how far it has come), ``answer`` (a message of ``operator.proto``, in base64), or
``error`` (why there is none).
"""
