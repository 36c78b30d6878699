"""The simulator: whole servers in one process, on virtual time, with faults, from a seed that replays."""
