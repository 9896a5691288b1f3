"""Where its servers come from: an address, a process of this machine, a container."""
