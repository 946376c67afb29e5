"""The JSON of the account: a file for each resource. Amounts are decimal strings, times are Unix seconds, lists are
pages.
"""
