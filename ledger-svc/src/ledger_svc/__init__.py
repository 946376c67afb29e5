"""Tallygate's ledger: keys, balances, holds, charges and receipts."""
