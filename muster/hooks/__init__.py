"""Programs and a web service that are told what happens in a rollout, or asked before a step."""
