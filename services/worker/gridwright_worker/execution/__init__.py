"""Runs actions: inputs in, a command, outputs out. Knows nothing of schedulers and transports.

Theory of operation: ``LocalExecutor`` does the work of one slot, one action at a time. It reads
the Command, loads the tree of Directories (``inputs.tree``), has every file of it on disk
(``inputs.cache``, shared by all slots), builds the input root from hard links
(``inputs.stage``), lets a ``Runner`` run the command, and collects and uploads what the
Command declares (``outputs``). File operations are grouped into steps that run in a thread.
"""
