"""The `tallygate` command, and the compositions of the services that it starts."""
