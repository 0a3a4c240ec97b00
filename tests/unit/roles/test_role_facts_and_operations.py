"""Cases of facts and operations: one YAML file each, in a folder named after what it is about."""

from pathlib import Path

from pyinfra_testing.facts import make_fact_tests
from pyinfra_testing.operations import make_operation_tests

HERE = Path(__file__).parent

for folder in sorted((HERE / "facts").iterdir()):
    globals()[f"Test {folder.name}"] = make_fact_tests("roles", folder.name, folder)
for folder in sorted((HERE / "operations").iterdir()):
    globals()[f"Test {folder.name}"] = make_operation_tests("roles", folder.name, folder)
