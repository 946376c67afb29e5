"""`tallygate account`: what the REST API offers to whoever manages an account, on the command line.

It speaks HTTP with an account key, so that it works from anywhere and can do what any client can. The operator's
commands (`tallygate key`, `credit`, `cap`, ...) reach the ledger itself, and can do more.
"""
