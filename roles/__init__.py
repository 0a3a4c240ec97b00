"""What deploys are made of: one package for each role, and modules that all of them share."""
