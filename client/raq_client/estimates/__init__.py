"""What a command will take, before it does it: time, memory, disk, from a moment of the work itself."""
