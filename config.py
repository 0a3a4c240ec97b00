"""Read by pyinfra before anything else, when it is started in this folder."""

from roles.command_line import be_honest, check_data
from roles.model.options import read_orders, read_rollback

be_honest()
check_data({"deploys/model.py": read_orders, "deploys/rollback.py": read_rollback})
