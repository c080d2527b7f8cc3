"""The state of the scheduler, in SQL: the shell that carries out what ``queue`` decides.

Each module holds the statements of one concern as functions of a connection; ``turns``
runs those that are wanted at the same time in one transaction.
"""
