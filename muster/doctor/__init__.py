"""Looking at devices: what is wrong with them, and how to mend it."""
