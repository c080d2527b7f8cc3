"""`gridwright up`: a whole grid on this machine, each service a process of its own."""
