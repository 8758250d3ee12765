"""Studies: arms of a sweep, what their seeds tell, and when they have told enough."""
