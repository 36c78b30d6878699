"""Real server processes, killed and cut off from their disks; what they acknowledged must be there afterwards."""
