"""What must hold, one file each. A checker looks at a finished world and says what is wrong in plain words."""
