"""What is told and not kept: typing and presence. In memory only, bounded, gone with the process."""
