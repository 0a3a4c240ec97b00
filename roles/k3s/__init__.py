"""What the roles k3s_server and k3s_agent share; no role of its own."""
