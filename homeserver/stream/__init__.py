"""What was committed, and who hears of it: the log, its followers, the indexes that follow it, and those who wait."""
