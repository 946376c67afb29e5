"""What every Tallygate process needs to speak the contracts: channels, serving, errors, deadlines, telemetry, money."""
