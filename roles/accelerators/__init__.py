"""What the roles of accelerators share: variables, detection, packages, CDI, facts for releases."""
