"""The real servers that the tests talk to: Slurm, sshd, and a network that breaks or is slow; all on loopback."""
