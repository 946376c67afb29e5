"""`python -m tallygate_deploy` is the `tallygate` command."""

from tallygate_deploy.cli import main

main()
