"""Several processes of the CAS behind one address.

One process of Python serves from one core. With ``cas.processes: 2`` this service is a parent that serves no
RPC, and two children that do, on directories that they share. Each child listens on the same port (SO_REUSEPORT), so
the kernel gives each connection to one of them; the parent has bound it before, without listening, so that nobody else
gets it. The parent starts the children, and starts those again that die; it asks them over a socket how they
are, and tells so on the admin port; it ends them when it is told to end, and the kernel kills them when it is killed.
"""
