"""What a child is told when it starts."""

from __future__ import annotations

import os
import pickle
from typing import NamedTuple

from gridwright.settings import Address
from gridwright_cas.config import CasFile


class Ticket(NamedTuple):
    """Which of several processes one is, and how it is to serve."""

    #: From 1 on; a process that takes the place of another has its number.
    number: int
    settings: CasFile

    def descriptor(self) -> int:
        """Return a descriptor from which a child reads this ticket.

        The settings travel as they are: the file may have changed since the parent has read it.
        """
        descriptor = os.memfd_create(f"gridwright-cas-{self.number}", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            pickle.dump(self, file)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    @classmethod
    def read(cls, descriptor: int) -> Ticket:
        """Return the ticket that the parent has left in *descriptor*, which stays open."""
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            ticket: Ticket = pickle.load(file)
        return ticket


def tickets(settings: CasFile, listen: Address) -> list[Ticket]:
    """Return the tickets of all processes, which listen together on *listen*.

    The memory that uploads and reads may take is that of all of them; each has its share.
    """
    cas = settings.cas
    uploads = cas.uploads.model_copy(update={"memory": max(1, cas.uploads.memory // cas.processes)})
    reads = cas.reads.model_copy(update={"memory": max(1, cas.reads.memory // cas.processes)})
    one = cas.model_copy(update={"processes": 1, "listen": listen, "uploads": uploads, "reads": reads})
    return [Ticket(number, settings.model_copy(update={"cas": one})) for number in range(1, cas.processes + 1)]
