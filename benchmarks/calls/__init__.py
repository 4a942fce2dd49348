"""The call table of every model of the zoo."""
