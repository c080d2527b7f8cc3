"""`gridwright ac`: looks into an action cache, and revokes what is wrong in it.

Each command works on an endpoint, or on the directory of an action cache; ``place`` says on which,
``endpoint`` and ``directory`` do it.
"""
