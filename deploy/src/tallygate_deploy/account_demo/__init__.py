"""`tallygate account-demo`: what a small team does with its account in its first days, told over HTTP in both modes."""
